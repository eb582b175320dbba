"""Values of a graph under construction: operations on them, written as on numbers, add nodes to the graph."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

PREFIX = "picture"  # of the names of added values


@dataclass
class Nodes:
    """The nodes of a graph under construction, and its constants."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)
    numbers: Any = field(default_factory=count)

    def constant(self, values: Any, dtype: str) -> "Value":
        """An array of a type as a constant, one for equal ones."""
        array = np.array(values, dtype)
        name = f"{PREFIX}/{dtype}{list(array.shape)}:{array.tobytes().hex()}"
        self.constants[name] = numpy_helper.from_array(array, name)
        return Value(self, name, dtype)

    def branch(self, make: Callable[[], "Value"]) -> onnx.GraphProto:
        """The nodes that a function adds as a graph of their own, with the float32 that it returns as the output."""
        around, self.nodes = self.nodes, []
        output = helper.make_tensor_value_info(make().name, onnx.TensorProto.FLOAT, None)
        graph, self.nodes = helper.make_graph(self.nodes, "branch", [], [output]), around
        return graph


class Value(NamedTuple):
    """An array in the graph. Operations on it add nodes to the graph; numbers in them become constants of its type."""

    of: Nodes
    name: str
    dtype: str  # NumPy's name

    def do(self, operator: str, *others: Any, dtype: str = "", **attributes: Any) -> "Value":
        """The output of an operator, of this value's type or another."""
        values = [one if isinstance(one, Value) else self.of.constant(one, self.dtype) for one in others]
        kind = "bool" if operator.startswith(("Less", "Greater", "Equal")) else dtype or self.dtype
        output = Value(self.of, f"{PREFIX}/{next(self.of.numbers)}", kind)
        names = [self.name, *(value.name for value in values)]
        self.of.nodes.append(helper.make_node(operator, names, [output.name], **attributes))
        return output

    def to(self, dtype: str) -> "Value":
        """The values as another type."""
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self if self.dtype == dtype else self.do("Cast", dtype=dtype, to=kind)

    def __add__(self, other: Any) -> "Value":
        return self.do("Add", other)

    def __sub__(self, other: Any) -> "Value":
        return self.do("Sub", other)

    def __mul__(self, other: Any) -> "Value":
        return self.do("Mul", other)

    def __truediv__(self, other: Any) -> "Value":  # of integers rounded towards zero
        return self.do("Div", other)

    def at_most(self, other: Any) -> "Value":
        """The smaller of both."""
        return self.do("Min", other)

    def at_least(self, other: Any) -> "Value":
        """The larger of both."""
        return self.do("Max", other)

    def both(self, other: "Value") -> "Value":
        """Whether both are true."""
        return self.do("And", other)

    def shaped(self, *sizes: int) -> "Value":
        """The values in another shape; 0 keeps a size, and -1 is what is left."""
        return self.do("Reshape", self.of.constant(sizes, "int64"))

    def turned(self, *axes: int) -> "Value":
        """The values with their axes in another order."""
        return self.do("Transpose", perm=axes)

    def at(self, places: Any, axis: int = 0) -> "Value":
        """The values at places of an axis."""
        return self.do("Gather", places if isinstance(places, Value) else self.of.constant(places, "int64"), axis=axis)

    def where(self, chosen: "Value", other: Any) -> "Value":
        """The chosen values where this one is true, and the other ones elsewhere."""
        other = other if isinstance(other, Value) else self.of.constant(other, chosen.dtype)
        return self.do("Where", chosen, other, dtype=chosen.dtype)
