"""Where the time of graphs goes, by ONNX Runtime's own trace: ``python -m benchmarks profile [NETWORK …]``."""

import argparse
import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from benchmarks.prepare import prepare
from benchmarks.work import NETWORKS
from handler.explanation.evidence import TOP
from handler.graphs.description import KIND_EXPLANATION, KIND_GRADCAM, KIND_PREDICTION, KINDS

_WARM_UP, _RUNS = 5, 30
_FEWEST_MS = 0.005  # of an operator that is told


def main(arguments: Sequence[str]) -> int:
    """Prints a table for each network: milliseconds of each operator in its graphs, one picture."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks profile", description=__doc__)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"{', '.join(NETWORKS)}, … (default: these)")
    parser.add_argument("--threads", type=int, default=1, metavar="N")
    parser.add_argument("--work", type=Path, default=Path("out/bench"), help="folder for weights and graphs")
    options = parser.parse_args(arguments)
    kinds = KIND_PREDICTION, KIND_GRADCAM, KIND_EXPLANATION
    for network in options.networks or NETWORKS:
        work = prepare(network, options.work / network)
        found = [profile(work.folder / KINDS[kind].file, work.pictures()[:1], options.threads) for kind in kinds]
        operators = sorted({name for one in found for name in one}, key=lambda name: -found[-1][name])
        rows = {"all": [sum(one.values()) for one in found]} | {
            name: [one[name] for one in found] for name in operators
        }
        print(f"\n{network}, ms on {options.threads} threads{'':14}", *(f"{kind:>12}" for kind in kinds))
        for name, spent in rows.items():
            if max(spent) >= _FEWEST_MS:
                print(f"{name:<45}", *(f"{value:12.2f}" for value in spent))
    return 0


def profile(graph: Path, pictures: np.ndarray, threads: int) -> dict[str, float]:
    """Milliseconds of a graph's operators in a run; an operator's layout of blocks counts as another operator."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.enable_profiling = threads, True
        options.profile_file_prefix = str(Path(folder, "trace"))
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        given = {"input": pictures, "target": np.full(len(pictures), TOP)}
        given = {one.name: given[one.name] for one in session.get_inputs()}
        for _ in range(_WARM_UP + _RUNS):
            session.run(None, given)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    spent = defaultdict[tuple[str, str], list[float]](list)
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            spent[event["args"]["op_name"], event["name"]].append(event["dur"] / 1e3)
    total = defaultdict[str, float](float)
    for (operator, _), runs in spent.items():
        total[operator] += statistics.median(runs[_WARM_UP:])
    return total
