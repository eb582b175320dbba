"""The table of makers: for each kind of architecture's name, what builds the network and what is known of it."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from handler.errors import ModelError
from handler.model import custom_architecture, registry
from handler.model.checkpoint import Checkpoint


@dataclass(frozen=True, kw_only=True)
class Maker:
    """What makes the networks of one kind of name; each function raises ModelError for what is not there."""

    check: Callable[[str], object]  # refuses a name that does not exist
    # the maker's own weights, described; takes the name, and that of torchvision's weights or None
    find: Callable[[str, str | None], Checkpoint]
    declare: Callable[[str], Checkpoint]  # what is assumed of a plain state dict, without weights
    build: Callable[[Checkpoint], nn.Module]  # of a complete checkpoint, with new weights
    sources: Callable[[str], list[str]] = lambda _: []  # packages and modules that travel in the archive
    declared_in: Callable[[str], str] = lambda _: ""  # the module in which people may declare what is missing
    runs_code: bool = False  # whether building runs code that the user must have named
    tried: bool = False  # whether all of its networks were: no graph differs, and channels-last layouts work


def _no_code(architecture: str, *_: object) -> Checkpoint:
    raise ModelError(f"{architecture} is made of an ONNX file: give the file, onnx=model.onnx")


def _of_graph(checkpoint: Checkpoint) -> nn.Module:
    from handler.model.onnx_network import OnnxNetwork  # other networks do not need the package onnx

    return OnnxNetwork(checkpoint.state["onnx_graph"].numpy().tobytes())


_TORCHVISION = Maker(
    check=registry.builder_of,
    find=registry.download,
    declare=registry.declare,
    build=registry.build,
    tried=True,
)
_CUSTOM = Maker(
    check=custom_architecture.find_factory,
    find=custom_architecture.declared_weights,
    declare=custom_architecture.declare,
    build=custom_architecture.build,
    sources=custom_architecture.sources,
    declared_in=custom_architecture.module_name,
    runs_code=True,
)
_ONNX = Maker(
    check=lambda _: None,
    find=_no_code,
    declare=_no_code,
    build=_of_graph,
)
_MAKERS: dict[str, Maker] = {"onnx": _ONNX}  # by what stands before the first slash of a name


def maker_of(architecture: str) -> Maker:
    """The maker of the networks of an architecture's name.

    Names are ``KIND/NAME`` with a kind of the table, ``package.module:factory`` for a custom architecture, and else
    torchvision's.
    """
    usual = _CUSTOM if ":" in architecture else _TORCHVISION
    return _MAKERS.get(architecture.partition("/")[0], usual)
