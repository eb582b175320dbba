"""The forms of a finished graph that devices need: other opsets, and no operator that selects by indices."""

from dataclasses import dataclass

import onnx

from handler.errors import ModelError

OPSET = 18  # the exporter's own; `make old-runtimes` runs it with ONNX Runtime 1.15, 1.17 and 1.20
OPSETS = range(15, 26)  # found by trying; below, ``Shape`` and ``Relu`` cannot be converted
_KEPT = ("Pad", "Split")  # which the converter lacks: what the exporter writes means the same in all these opsets
# what a portable graph is without: these select, or scatter, by int64 indices
_SELECTING = """ArgMax ArgMin Compress GatherElements GatherND GridSample MaxUnpool NonZero OneHot Scatter
ScatterElements ScatterND TopK Unique"""


@dataclass(frozen=True, kw_only=True)
class Form:
    """How a graph is written."""

    portable: bool = False  # for devices: class weights instead of a target, no operator that selects by indices
    batch: int = 0  # number of pictures in a run, 0 for any
    opset: int = OPSET
    folded: bool = True  # batch norms of predictions are in the convolutions' weights, not as the checkpoint has them
    half: bool = False  # becomes float16, in which the large constants of ``use_blocked_layout`` are infinite
    pictures: bool = False  # takes a uint8 picture of any size, see ``deploy.devices.pictures``

    def __post_init__(self) -> None:
        if self.pictures and (self.portable or self.batch):
            raise ModelError(
                "a graph that takes pictures takes one of any size: leave out either --pictures (PICTURES), or "
                "--portable and --batch (PORTABLE and FIXED_BATCH)"
            )


USUAL = Form()


def at_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Converts a graph of opset 18; a ModelError says that the opset is not valid, or what has no form there."""
    if opset not in OPSETS:
        raise ModelError(f"opset {opset} cannot be written, valid are {OPSETS[0]} to {OPSETS[-1]}")
    for node in model.graph.node:
        node.domain = "kept" if node.op_type in _KEPT and opset < OPSET else node.domain
    model.opset_import.append(onnx.helper.make_opsetid("kept", 1))
    try:
        found = onnx.version_converter.convert_version(model, opset)
        for node in found.graph.node:
            node.domain = ""
            known = onnx.defs.get_schema(node.op_type, opset).attributes
            for attribute in [one for one in node.attribute if one.name not in known]:
                node.attribute.remove(attribute)
        del found.opset_import[:]
        found.opset_import.append(onnx.helper.make_opsetid("", opset))
        onnx.checker.check_model(found, full_check=True)
        return found
    except Exception as error:  # the converter's exceptions have no common base but this
        why = " ".join(str(error).split())[-200:]
        raise ModelError(f"the graph cannot be written in opset {opset}, its own is {OPSET}: {why}") from error


def check_portable(graph: onnx.GraphProto) -> None:
    """Raises ModelError if a graph has operators that a portable one is without; the message names these."""
    left = {node.op_type for node in graph.node if node.op_type in _SELECTING.split()}
    left |= {"MaxPool with Indices" for node in graph.node if node.op_type == "MaxPool" and len(node.output) > 1}
    if left:
        raise ModelError(f"a portable graph of this network would need {', '.join(sorted(left))}")
