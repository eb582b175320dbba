"""A written float32 graph in other numbers, compared with it, described in its metadata, and refused if they differ."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from deploy.devices.agreement import Agreement, Arrays, Run
from deploy.devices.calibration import Pictures
from deploy.devices.fp16 import check_range, halve
from deploy.devices.int8 import check_head, quantise
from handler.errors import ModelError
from handler.explanation.evidence import TOP, Floats
from handler.graphs.description import KIND_EXPLANATION, KIND_GRADCAM, KIND_PREDICTION
from handler.graphs.session import GraphSession, weights_file
from handler.picture.preprocess import Preprocessing

FP16 = "fp16"
NEEDED = {"int8": 0.9, "int7": 0.9, FP16: 0.95}  # of each kind of numbers: the default of the agreement
_LEFT = (0, 3, 8)  # convolutions that stay float32, tried in turn until the agreement suffices
_ROUNDS, _THREADS = 40, 2  # of the measurement of time
_DOT_PRODUCTS = {"avx512_vnni", "avx_vnni", "asimddp"}  # flags of x86 and Arm


@dataclass(frozen=True, kw_only=True)
class Precision:
    """The numbers of a graph, the agreement that is needed, and the folder of pictures to calibrate by, or None."""

    numbers: str  # a key of NEEDED; int7 is int8 whose weights have seven bits
    needed: float
    calibrate: Path | None = None

    @classmethod
    def said(cls, quantize: str | None, half: bool, agreement: float | None, calibrate: Path | None) -> "Precision":
        """Reads the options; a ModelError says which are not valid."""
        if not (quantize or half):
            raise ModelError(
                "calibrate= and agreement= are of graphs in other numbers: give quantize=int8 or --half (HALF=1)"
            )
        if quantize and half:
            raise ModelError(f"a graph has one kind of numbers: give either quantize={quantize} or --half (HALF=1)")
        numbers = quantize or FP16
        needed = NEEDED[numbers] if agreement is None else agreement
        if not 0 <= needed <= 1:
            raise ModelError(f"agreement={needed} is not valid, valid are 0 to 1")
        return cls(numbers=numbers, needed=needed, calibrate=calibrate)

    def check_kind(self, kind: str) -> None:
        """Raises ModelError for kinds of graphs with gradients of the network, in int8."""
        valid = (KIND_PREDICTION, KIND_GRADCAM, *([KIND_EXPLANATION] if self.numbers == FP16 else []))
        if kind not in valid:
            why = "gradients through the whole network do not pass int8: " * (self.numbers != FP16)
            raise ModelError(
                f"{why}{self.numbers} graphs of the kind {kind} are not made, valid are {', '.join(valid)}"
            )

    def pictures(self, how: Preprocessing) -> Pictures:
        """The folder's pictures, or drawn ones; errors are those of ``Pictures.of_folder``."""
        return Pictures.of_folder(self.calibrate, how) if self.calibrate else Pictures.drawn(how)

    def write(self, source: Path, path: Path, pictures: Pictures) -> str:
        """Writes the graph of a float32 graph's file, or nothing, and returns what was measured, in lines.

        A ModelError says why there is no such graph, or how little it agrees; see ``check_head`` and ``check_range``.
        """
        if weights_file(source).exists():
            raise ModelError(f"no {self.numbers} graph is made of a network with more than 2 GB of weights")
        model, whole = onnx.load(source), GraphSession.open(source, threads=_THREADS)
        if self.numbers == FP16:
            check_range(model, pictures.calibrating)
        elif whole.description.kind == KIND_GRADCAM:
            check_head(model, whole.description.layer)
        unfinished = source.with_name(f"unfinished.{path.name}")
        for left in _LEFT[: 1 if self.numbers == FP16 else None]:
            how = {"bits": 7 if self.numbers == "int7" else 8, "left": left}
            made = halve(model) if self.numbers == FP16 else quantise(model, pictures.calibrating, **how)
            onnx.helper.set_model_props(made, whole.description.to_properties())
            onnx.save(made, unfinished)
            reduced = GraphSession.open(unfinished, threads=_THREADS)
            found = compare(run_of(whole), reduced, pictures.comparing)
            if found.suffices(self.needed):
                break
        calibrated = "" if self.numbers == FP16 else f", calibrated by {pictures.origin}"
        calibrated += f", the first {left} convolutions in float32" if left else ""
        said = f"{self.numbers}{calibrated}; against float32, on {pictures.compared}: {found}"
        if not found.suffices(self.needed):
            advice = "" if self.calibrate else ", or name pictures of the network's own kind, calibrate=FOLDER"
            raise ModelError(f"{said}; needed is {self.needed:g}: lower it, agreement={advice}; no graph was written")
        known = {"numbers": self.numbers, "needed": self.needed, "summary": said, **vars(found)}
        onnx.helper.set_model_props(made, replace(whole.description, precision=known).to_properties())
        onnx.checker.check_model(made, full_check=True)
        onnx.save(made, unfinished)
        unfinished.replace(path)
        return f"{said}\n{_time(self.numbers, whole, reduced, pictures.comparing[:1])}"


def run_of(graph: GraphSession) -> Run:
    """A function that runs the graph, and passes only those inputs on that the graph takes."""
    names = [value.name for value in graph.session.get_inputs()]
    outputs = graph.description.outputs

    def run(inputs: Arrays) -> Arrays:
        return dict(zip(outputs, graph.infer({name: inputs[name] for name in names}, outputs), strict=True))

    return run


def compare(float32: Run, graph: GraphSession, pictures: Floats) -> Agreement:
    """The agreement of a graph with a run of the same network in float32."""
    known = graph.description
    return Agreement.of(float32, run_of(graph), pictures, known.head, len(known.labels))


def _time(numbers: str, whole: GraphSession, reduced: GraphSession, picture: Floats) -> str:
    """The time of a run in comparison with float32's, by turns, and whether the processor has instructions for it."""
    inputs, pairs = {"input": picture, "target": np.array([TOP])}, []
    for _ in range(_ROUNDS):
        begin = time.perf_counter()
        run_of(whole)(inputs)
        between = time.perf_counter()
        run_of(reduced)(inputs)
        pairs.append((between - begin) / (time.perf_counter() - between))
    said = f"{np.median(pairs[_ROUNDS // 4 :]):.2f} times as fast as float32 here: one picture, {_THREADS} threads"
    if numbers == FP16:
        return f"{said}; ONNX Runtime's CPU computes in float32, and casts: float16 is for targets with its kernels"
    try:
        has = _DOT_PRODUCTS & {*Path("/proc/cpuinfo").read_text().split()}
    except OSError:
        return f"{said}; whether this processor has VNNI is not known"
    return f"{said}; this processor has {', '.join(sorted(has)) or 'no VNNI, without which int8 gains little'}"
