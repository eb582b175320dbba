"""Architectures that are not torchvision's: ``package.module:factory``.

The factory returns an ``nn.Module`` that maps pictures, float32 (N, 3, H, W), to class scores (N, K). It is called with
``num_classes=K`` if it has a parameter of that name, where the model is packed and again on the server; the
checkpoint's weights are loaded into what it returns.
"""

import importlib
import inspect
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

from torch import nn

from handler.errors import ModelError

_SPECIFICATION = re.compile(r"(?P<module>[^\W\d]\w*(?:\.[^\W\d]\w*)*):(?P<factory>[^\W\d]\w*(?:\.[^\W\d]\w*)*)")


def is_own(architecture: str) -> bool:
    """Whether the name is ``package.module:factory`` rather than one of torchvision's."""
    return ":" in architecture


def module_name(architecture: str) -> str:
    """The dotted name of the factory's module.

    Raises:
        ModelError: not of the form ``package.module:factory``.
    """
    found = _SPECIFICATION.fullmatch(architecture)
    if not found:
        raise ModelError(f"architecture {architecture!r} is not valid, valid is package.module:factory")
    return found["module"]


def load_module(architecture: str) -> ModuleType:
    """Imports the factory's module.

    Raises:
        ModelError: it cannot be imported; the message says why.
    """
    name = module_name(architecture)
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # a module may raise anything while it is imported
        raise ModelError(
            f"architecture {architecture}: {name} cannot be imported ({type(error).__name__}: {error}); "
            "valid is a module in the current folder, on PYTHONPATH or installed"
        ) from error


def find_factory(architecture: str) -> Callable[..., Any]:
    """The function or class that makes the network.

    Raises:
        ModelError: no such module or attribute, or nothing that can be called.
    """
    found: Any = load_module(architecture)
    path = architecture.partition(":")[2]
    for name in path.split("."):
        if not hasattr(found, name):
            public = sorted(one for one, value in vars(found).items() if callable(value) and not one.startswith("_"))
            raise ModelError(
                f"architecture {architecture}: there is no {name!r}, there are {', '.join(public) or 'none'}"
            )
        found = getattr(found, name)
    if not callable(found):
        raise ModelError(
            f"architecture {architecture}: {path} is {described(found)} and cannot be called, "
            "valid is a function or class that returns a torch.nn.Module"
        )
    factory: Callable[..., Any] = found
    return factory


def build_own(architecture: str, num_classes: int | None = None) -> nn.Module:
    """Calls the factory.

    Args:
        architecture: ``package.module:factory``.
        num_classes: handed on if the factory has such a parameter; None leaves it to the factory.

    Raises:
        ModelError: there is no such factory, it fails, or it returns no network with weights.
    """
    factory = find_factory(architecture)
    asked = {"num_classes": num_classes} if num_classes is not None and _takes_classes(factory) else {}
    try:
        module = factory(**asked)
    except Exception as error:  # whatever its author did not foresee
        raise ModelError(f"architecture {architecture} fails ({type(error).__name__}: {error})") from error
    if not isinstance(module, nn.Module):
        raise ModelError(f"architecture {architecture} returns {described(module)}, valid is a torch.nn.Module")
    if next(module.parameters(), None) is None:
        raise ModelError(f"architecture {architecture} has no weights, valid is a network with parameters")
    return module


def _takes_classes(factory: Callable[..., Any]) -> bool:
    try:
        return "num_classes" in inspect.signature(factory).parameters
    except ValueError:  # built-in callables have no signature
        return False


def described(value: Any) -> str:
    """What something is, for messages."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
