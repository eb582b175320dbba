"""The table of makers: for each kind of architecture's name, what builds the network and what is known of it."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from torch import nn

from handler.errors import ModelError
from handler.model import custom_architecture, huggingface_networks, registry, timm_networks
from handler.model.checkpoint import Checkpoint


@dataclass(frozen=True, kw_only=True)
class Maker:
    """What makes the networks of one kind of name; each function raises ModelError for what is not there."""

    check: Callable[[str], object] = lambda _: None  # refuses a name that does not exist
    # the maker's own weights, described; takes the name, and that of torchvision's weights or None
    find: Callable[[str, str | None], Checkpoint]
    declare: Callable[[str], Checkpoint]  # what is assumed of a plain state dict, without weights
    build: Callable[[Checkpoint], nn.Module]  # of a complete checkpoint, with new weights
    sources: Callable[[str], list[str]] = lambda _: []  # packages and modules that travel in the archive
    package: str = ""  # what must be installed, here and on the server unless its source travels
    runs_code: bool = False  # whether building runs code that the user must have named
    tried: bool = False  # whether all of its networks were: no graph differs, and channels-last layouts work


def _maker(module: ModuleType, **further: Any) -> Maker:
    """The maker whose functions are those of a module."""
    return Maker(find=module.find, declare=module.declare, build=module.build, **further)


def _no_code(architecture: str, *_: object) -> Checkpoint:
    raise ModelError(f"{architecture} is made of an ONNX file: give the file, onnx=model.onnx")


def _of_graph(checkpoint: Checkpoint) -> nn.Module:
    from handler.model.onnx_network import OnnxNetwork  # other networks do not need the package onnx

    if "onnx_graph" not in checkpoint.state:
        _no_code(str(checkpoint.architecture))
    return OnnxNetwork(checkpoint.state["onnx_graph"].numpy().tobytes())


_TORCHVISION = _maker(registry, check=registry.builder_of, tried=True)
_CUSTOM = _maker(
    custom_architecture, check=custom_architecture.find_factory, sources=custom_architecture.sources, runs_code=True
)
_MAKERS = {  # by what stands before the first slash of a name
    "timm": _maker(timm_networks, check=timm_networks.check, sources=lambda _: ["timm"], package="timm"),
    "hf": _maker(huggingface_networks, package="transformers"),  # a checkpoint has all that it needs of the folder
    "onnx": Maker(find=_no_code, declare=_no_code, build=_of_graph),
}


def maker_of(architecture: str) -> Maker:
    """The maker of an architecture's networks; raises ModelError if its package is not installed.

    Names are ``KIND/NAME`` with a kind of the table, ``package.module:factory`` for a custom architecture, and else
    torchvision's.
    """
    usual = _CUSTOM if ":" in architecture else _TORCHVISION
    maker = _MAKERS.get(architecture.partition("/")[0], usual)
    if maker.package and find_spec(maker.package) is None:
        raise ModelError(f"{architecture} needs {maker.package}: pip install {maker.package}")
    return maker
