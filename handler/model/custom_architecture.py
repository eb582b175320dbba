"""Custom architectures: ``package.module:factory``, and what their module declares.

The factory returns an ``nn.Module`` that maps pictures, float32 (N, C, H, W), to class scores (N, K). It is called with
``num_classes=K`` if it has a parameter of that name, when the model is packed and again on the server; the checkpoint's
weights are loaded into the module.

The factory's module may define four names. The user's labels go before a checkpoint's description, which goes before
these declarations.

* ``PREPROCESSING``: a mapping of the fields of ``handler.picture.preprocess.Preprocessing``;
* ``LABELS``: a label per score;
* ``weights()``: returns a state dict if no checkpoint is given; it is not called on the server;
* ``PACKED``: names of packages and modules that the network's code imports and that belong into the archive.
"""

import importlib
import inspect
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

import torch
from torch import nn

from handler.errors import ModelError, in_one_line
from handler.model.checkpoint import Checkpoint
from handler.picture.preprocess import Preprocessing

_SPECIFICATION = re.compile(r"(?P<module>[^\W\d]\w*(?:\.[^\W\d]\w*)*):(?P<factory>[^\W\d]\w*(?:\.[^\W\d]\w*)*)")


def module_name(architecture: str) -> str:
    """The dotted name of the factory's module; raises ModelError if the name is not ``package.module:factory``."""
    found = _SPECIFICATION.fullmatch(architecture)
    if not found:
        raise ModelError(f"architecture {architecture!r} is not valid, valid is package.module:factory")
    return found["module"]


def load_module(architecture: str) -> ModuleType:
    """Imports the factory's module; the ModelError says why that is not possible."""
    name = module_name(architecture)
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # foreign code can raise any exception
        raise ModelError(
            f"architecture {architecture}: {name} cannot be imported ({type(error).__name__}: {error}); "
            "valid is a module in the current folder, on PYTHONPATH or installed"
        ) from error


def find_factory(architecture: str) -> Callable[..., Any]:
    """The function or class that makes the network.

    Raises:
        ModelError: the module cannot be imported, or the factory does not exist or cannot be called.
    """
    found: Any = load_module(architecture)
    path = architecture.partition(":")[2]
    for name in path.split("."):
        if not hasattr(found, name):
            public = sorted(known for known, value in vars(found).items() if callable(value) and known[0] != "_")
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


def build(checkpoint: Checkpoint) -> nn.Module:
    """The network of a complete checkpoint, as ``build_custom`` builds it."""
    assert checkpoint.preprocessing is not None
    return build_custom(str(checkpoint.architecture), len(checkpoint.labels or []), checkpoint.preprocessing.shape)


def build_custom(
    architecture: str, num_classes: int | None = None, shape: tuple[int, int, int] | None = None
) -> nn.Module:
    """Calls the factory.

    Args:
        architecture: ``package.module:factory``.
        num_classes: the argument of the factory's parameter of that name; None leaves the number to the factory.
        shape: (C, H, W) of the pictures; lazy modules get the shapes of their weights from a blank picture.

    Raises:
        ModelError: the factory does not exist, fails, or returns no network with weights.
    """
    factory = find_factory(architecture)
    try:
        takes_classes = num_classes is not None and "num_classes" in inspect.signature(factory).parameters
    except ValueError:  # built-in callables have no signature
        takes_classes = False
    try:
        module = factory(num_classes=num_classes) if takes_classes else factory()
    except Exception as error:  # foreign code can raise any exception
        raise ModelError(f"architecture {architecture} fails ({in_one_line(error)})") from error
    if not isinstance(module, nn.Module):
        raise ModelError(f"architecture {architecture} returns {described(module)}, valid is a torch.nn.Module")
    scripted = next((path for path, part in module.named_modules() if isinstance(part, torch.jit.ScriptModule)), None)
    if scripted is not None:
        raise ModelError(
            f"architecture {architecture} has TorchScript in it ({scripted or 'the whole network'}), whose layers take "
            "no hooks; valid is the torch.nn.Module that was scripted or traced"
        )
    if next(module.parameters(), None) is None:
        raise ModelError(f"architecture {architecture} has no weights, valid is a network with parameters")
    module = _not_compiled(module)
    if shape is not None and _shapeless(module):
        _give_shapes(module, architecture, shape)
    return module


def _not_compiled(module: Any) -> nn.Module:
    """The network with torch.compile undone, because hooks do not run in compiled code."""
    while type(module).__name__ == "OptimizedModule":  # isinstance would import torch._dynamo, which takes seconds
        module = module._orig_mod
    for name, child in module._modules.items():
        if child is not None:
            module._modules[name] = _not_compiled(child)
    if module._compiled_call_impl is not None:  # Module.compile was called
        module._compiled_call_impl = None
    found: nn.Module = module
    return found


def _shapeless(module: nn.Module) -> list[str]:
    """Names of the weights of lazy modules that have no shape yet."""
    return [name for name, value in module.state_dict().items() if nn.parameter.is_lazy(value)]


def _give_shapes(module: nn.Module, architecture: str, shape: tuple[int, int, int]) -> None:
    try:
        with torch.no_grad():
            module.eval()(torch.zeros(1, *shape))
    except Exception as error:  # foreign code can raise any exception
        raise ModelError(
            f"architecture {architecture} is lazy and fails on a picture {(1, *shape)} ({in_one_line(error)})"
        ) from error
    if left := _shapeless(module):
        raise ModelError(
            f"architecture {architecture} is lazy, and after a picture {', '.join(left[:3])} still have no shape; "
            "valid is a network without lazy modules that do not run"
        )


def find(architecture: str, torchvisions: str | None) -> Checkpoint:
    """A checkpoint with the weights that the module's ``weights()`` returns, and with what the module declares.

    Raises:
        ModelError: torchvision's weights are wanted, the module has no function ``weights``, or the function fails or
            returns no state dict.
    """
    if torchvisions is not None:
        raise ModelError(
            f"weights {torchvisions!r} are torchvision's; {architecture} takes a file of its own, checkpoint="
        )
    module = load_module(architecture)
    find_factory(architecture)  # refused before the weights are read, which may take long
    weights = getattr(module, "weights", None)
    if not callable(weights):
        raise ModelError(
            f"architecture {architecture} comes without weights: give a file, checkpoint=, "
            f"or define weights() in {module.__name__}, which returns a state dict"
        )
    try:
        state = weights()
    except Exception as error:  # foreign code can raise any exception
        raise ModelError(f"{module.__name__}.weights() fails ({type(error).__name__}: {error})") from error
    values = state.values() if isinstance(state, Mapping) else ()
    if not values or not all(isinstance(value, torch.Tensor) for value in values):
        raise ModelError(f"weights() returns {described(state)}, valid is a state dict: a mapping of names to tensors")
    detached = {str(name): value.detach() for name, value in state.items()}
    return replace(declare(architecture), state=detached)


def declare(architecture: str) -> Checkpoint:
    """What the module declares, without weights; raises ModelError for a declaration that is not valid."""
    origins = dict.fromkeys(("labels", "preprocessing"), f"as {module_name(architecture)} declares it")
    labels, how = _declared_texts(architecture, "LABELS", "texts, one per score"), _declared_preprocessing(architecture)
    return Checkpoint(architecture=architecture, labels=labels, preprocessing=how, state={}, origins=origins)


def _declared_preprocessing(architecture: str) -> Preprocessing | None:
    declared = getattr(load_module(architecture), "PREPROCESSING", None)
    if declared is None or isinstance(declared, Preprocessing):
        return declared
    try:
        return Preprocessing.from_json(json.dumps(declared))
    except (TypeError, ValueError) as error:
        raise ModelError(f"{module_name(architecture)}.PREPROCESSING is not valid: {error}") from error


def sources(architecture: str) -> list[str]:
    """The factory's package, or its module if there is none, and the module's ``PACKED``."""
    module = load_module(architecture)
    packed = _declared_texts(architecture, "PACKED", "packages' names")
    return [module.__package__ or module.__name__, *(packed or [])]


def _declared_texts(architecture: str, name: str, valid: str) -> list[str] | None:
    values = getattr(load_module(architecture), name, None)
    if values is None:
        return None
    if not isinstance(values, (list, tuple)) or not all(isinstance(value, str) for value in values):
        raise ModelError(f"{module_name(architecture)}.{name} must be a list of {valid}")
    return list(values)


def described(value: Any) -> str:
    """A value's type in words, for messages: "a list", "the class Network"."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
