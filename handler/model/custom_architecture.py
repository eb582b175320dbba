"""Custom architectures: ``package.module:factory``, whose factory returns a network that maps (N, C, H, W) to (N, K).

The factory is called with ``num_classes=K`` if it has a parameter of that name, when the model is packed and again on
the server. Its module may declare ``LABELS``, ``PREPROCESSING`` (a mapping of the fields of ``Preprocessing``),
``PACKED`` (packages and modules that belong into the archive) and ``weights()``, which returns a state dict if no
checkpoint is given, and is not called on the server. A checkpoint's description goes before the declarations.
"""

import importlib
import inspect
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from types import ModuleType
from typing import Any

import torch
from torch import nn

from handler.errors import ModelError, foreign_code
from handler.model.checkpoint import Checkpoint
from handler.picture.preprocess import Preprocessing

_SPECIFICATION = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def load_module(architecture: str) -> ModuleType:
    """Imports the factory's module; the ModelError says why that is not possible."""
    if not _SPECIFICATION.fullmatch(architecture):
        raise ModelError(f"architecture {architecture!r} is not valid, valid is package.module:factory")
    name = architecture.partition(":")[0]
    valid = "valid is a module in the current folder, on PYTHONPATH or installed"
    with foreign_code(f"architecture {architecture}: {name} cannot be imported", valid):
        return importlib.import_module(name)


def find_factory(architecture: str) -> Any:
    """The function or class that makes the network; raises ModelError if there is none, or it cannot be called."""
    found, path = load_module(architecture), architecture.partition(":")[2]
    for name in path.split("."):
        if not hasattr(found, name):
            public = sorted(known for known, value in vars(found).items() if callable(value) and known[0] != "_")
            raise ModelError(f"architecture {architecture}: there is no {name!r}, but {', '.join(public) or 'nothing'}")
        found = getattr(found, name)
    if not callable(found):
        valid = "valid is a function or class that returns a torch.nn.Module"
        raise ModelError(f"architecture {architecture}: {path} is {described(found)} and cannot be called, {valid}")
    return found


def build(checkpoint: Checkpoint) -> nn.Module:
    """Calls the factory, or raises ModelError if that fails or returns no network with weights.

    Labels, if the checkpoint has any, give ``num_classes``. Lazy modules get the shapes of their weights from a blank
    picture, if the checkpoint says its shape.
    """
    architecture, how = str(checkpoint.architecture), checkpoint.preprocessing
    factory = find_factory(architecture)
    counted = {"num_classes": len(checkpoint.labels)} if checkpoint.labels else {}
    takes: Any = ()
    with suppress(ValueError):  # built-in callables have no signature
        takes = inspect.signature(factory).parameters
    with foreign_code(f"architecture {architecture} fails"):
        module = factory(**(counted if "num_classes" in takes else {}))
    if not isinstance(module, nn.Module):
        raise ModelError(f"architecture {architecture} returns {described(module)}, valid is a torch.nn.Module")
    scripted = next((path for path, part in module.named_modules() if isinstance(part, torch.jit.ScriptModule)), None)
    if scripted is not None:
        what = f"TorchScript in it ({scripted or 'the whole network'}), whose layers take no hooks"
        valid = "valid is the torch.nn.Module that was scripted or traced"
        raise ModelError(f"architecture {architecture} has {what}; {valid}")
    if next(module.parameters(), None) is None:
        raise ModelError(f"architecture {architecture} has no weights, valid is a network with parameters")
    plain: nn.Module = _not_compiled(module)
    if how is not None:
        _give_shapes(plain, architecture, how.shape)
    return plain


def _not_compiled(module: Any) -> Any:
    """The network with torch.compile undone, because hooks do not run in compiled code."""
    while type(module).__name__ == "OptimizedModule":  # isinstance would import torch._dynamo, which takes seconds
        module = module._orig_mod
    for name, child in module._modules.items():
        if child is not None:
            module._modules[name] = _not_compiled(child)
    module._compiled_call_impl = None  # of Module.compile, if it was called
    return module


def _give_shapes(module: nn.Module, architecture: str, shape: tuple[int, int, int]) -> None:
    """Runs a network with lazy modules on a blank picture (C, H, W)."""

    def shapeless() -> list[str]:
        return [name for name, value in module.state_dict().items() if nn.parameter.is_lazy(value)]

    if not shapeless():
        return
    with foreign_code(f"architecture {architecture} is lazy and fails on a picture {(1, *shape)}"), torch.no_grad():
        module.eval()(torch.zeros(1, *shape))
    if left := shapeless():
        what = f"is lazy, and after a picture {', '.join(left[:3])} still have no shape"
        raise ModelError(f"architecture {architecture} {what}; valid is a network without lazy modules that do not run")


def find(architecture: str, named: str | None) -> Checkpoint:
    """A checkpoint with the weights that the module's ``weights()`` returns, and with what the module declares.

    The ModelError says that torchvision's weights are wanted, or that the function is missing, fails or returns none.
    """
    if named is not None:
        raise ModelError(f"weights {named!r} are torchvision's; {architecture} takes a file of its own, checkpoint=")
    module = load_module(architecture)
    find_factory(architecture)  # refused before the weights are read, which may take long
    weights = getattr(module, "weights", None)
    if not callable(weights):
        define = f"define weights() in {module.__name__}, which returns a state dict"
        raise ModelError(f"architecture {architecture} comes without weights: give a file, checkpoint=, or {define}")
    with foreign_code(f"{module.__name__}.weights() fails"):
        state = weights()
    values = state.values() if isinstance(state, Mapping) else ()
    if not values or not all(isinstance(value, torch.Tensor) for value in values):
        raise ModelError(f"weights() returns {described(state)}, valid is a state dict: a mapping of names to tensors")
    return replace(declare(architecture), state={str(name): value.detach() for name, value in state.items()})


def declare(architecture: str) -> Checkpoint:
    """What the module declares, without weights; raises ModelError for a declaration that is not valid."""
    module = load_module(architecture)
    labels, how = _declared(module, "LABELS", "texts, one per score"), getattr(module, "PREPROCESSING", None)
    if how is not None and not isinstance(how, Preprocessing):
        with foreign_code(f"{module.__name__}.PREPROCESSING is not valid"):
            how = Preprocessing.from_json(json.dumps(how))
    origins = dict.fromkeys(("labels", "preprocessing"), f"as {module.__name__} declares it")
    return Checkpoint(architecture=architecture, labels=labels or None, preprocessing=how, origins=origins)


def sources(architecture: str) -> list[str]:
    """The factory's package, or its module if there is none, and the module's ``PACKED``."""
    module = load_module(architecture)
    return [module.__package__ or module.__name__, *_declared(module, "PACKED", "packages' names")]


def _declared(module: ModuleType, name: str, valid: str) -> list[str]:
    values = getattr(module, name, None)
    values = [] if values is None else values
    if not isinstance(values, (list, tuple)) or not all(isinstance(value, str) for value in values):
        raise ModelError(f"{module.__name__}.{name} must be a list of {valid}")
    return list(values)


def described(value: Any) -> str:
    """A value's type in words, for messages: "a list", "the class Network"."""
    name = type(value).__name__
    article = "an" if name[0].lower() in "aeiou" else "a"
    return f"the class {value.__name__}" if isinstance(value, type) else f"{article} {name}"
