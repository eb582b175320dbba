"""The fast engine, without PyTorch: ONNX graphs that were traced from the eager explanation and compared with it."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from handler.errors import ModelError, Unprocessable
from handler.explanation.class_weights import Pairs
from handler.explanation.evidence import BEHIND, TOP, Evidence, Floats, Indices, LayerEvidence, Needs, Targets
from handler.explanation.methods import ATTENTION_METHODS, METHODS
from handler.graphs.description import KIND_ATTENTION, KIND_BEHIND, KIND_PREDICTION, KINDS, GraphDescription
from handler.graphs.session import Arrays, GraphSession

_AT_LAYER = ("activations", "gradients")
_AT_ONCE = 16  # pictures in a run: limits the memory of a batch with many targets


class OnnxEngine:
    """Predictions, and evidence at the layers that the graphs were made for. Runs may overlap."""

    name = "onnx"

    def __init__(self, graphs: dict[str, GraphSession], is_busy: Callable[[], bool] | None = None) -> None:
        """Takes graphs by kind, all made from the same model for the same layer; raises ModelError if none predicts.

        While ``is_busy`` tells that other runs are due, a run takes one thread: runs that overlap are faster together
        so than one after the other with all threads.
        """
        if not {*graphs} - {KIND_BEHIND}:
            raise ModelError(f"a graph of the kind {KIND_BEHIND} works beside another graph, which finds activations")
        self._graphs, self._is_busy = graphs, is_busy or (lambda: False)
        self._of_one_thread = {kind: graph.with_threads(1) for kind, graph in graphs.items()} if is_busy else graphs
        self._beside = ("", *([BEHIND] if KIND_BEHIND in graphs else []))  # needs beside activations and gradients
        with_layers = [graph.description for kind, graph in graphs.items() if kind != KIND_PREDICTION]
        # module paths of the layers whose evidence the graphs hold, the default layer first
        self.layers = tuple(dict.fromkeys(path for known in with_layers for path in known.layers))

    def use_threads(self, threads: int) -> None:
        """Lets each run from now on take so many threads."""
        self._graphs.update({kind: graph.with_threads(threads) for kind, graph in self._graphs.items()})

    @property
    def files(self) -> dict[str, str]:
        """The kinds of the graphs, and the SHA-256 of their files."""
        return {kind: graph.sha256 for kind, graph in self._graphs.items()}

    @property
    def held(self) -> str:
        """The evidence that the graphs hold, in the words of the options."""
        parts = ["maps none"]
        if maps := dict.fromkeys(name for kind in KINDS if kind in self._graphs for name in KINDS[kind].maps):
            where = "layer" if len(self.layers) == 1 else "layers"
            parts.append(f"maps {', '.join(maps)} at {where} {', '.join(self.layers)}")
        if KIND_ATTENTION in self._graphs:
            parts.append(f"methods {', '.join(ATTENTION_METHODS)}")
        return " and ".join(parts)

    def covers(self, needs: Needs) -> bool:
        """Whether the graphs hold all of this evidence."""
        return all(self._graph_for(part) for part in self._parts(needs))

    def run(self, inputs: Floats, targets: Targets, needs: Needs) -> Evidence:
        """See ``Engine.run``; where no single graph holds the evidence at layers and at the input, two run."""
        (graph, part), *others = [(self._held(part), part) for part in self._parts(needs)]
        classes, forward_alone = len(graph.description.labels), not (needs.backward or needs.attention)
        asked = Pairs.of(targets, classes)
        # a row without a target has scores, too, and scores alone are the same for all targets
        pairs = Pairs.of([(TOP,) if forward_alone else wanted or (TOP,) for wanted in targets], classes)
        found = _find(graph, inputs, pairs, asked, part)
        if forward_alone:
            return replace(found, infer_ms=found.explain_ms, explain_ms=0.0)
        for graph, part in others:  # asked for the classes found before: of scores within rounding, each has its best
            pairs.wanted[np.isin(pairs.rows, asked.rows)] = found.classes
            other = _find(graph, inputs, pairs, asked, part)
            layers, saliency = {**found.layers, **other.layers}, other.saliency if part.saliency else found.saliency
            found = replace(found, layers=layers, saliency=saliency, explain_ms=found.explain_ms + other.explain_ms)
        return found

    def behind(self, inputs: Floats, layer: str, activations: Floats) -> Floats:
        """See ``Engine.behind``."""
        self._held(Needs(layers=(layer,), beside=BEHIND))
        return self._due[KIND_BEHIND].infer({"input": inputs, "activations": activations}, ["logits"])[0]

    def _held(self, needs: Needs) -> GraphSession:
        graph = self._graph_for(needs)
        if graph is None:
            others = ", ".join(name for name, method in METHODS.items() if method.beside not in self._beside)
            valid = f"{self.held}, by all methods but {others}" if needs.beside else self.held
            raise Unprocessable(f"the ONNX graphs do not hold {needs.beside or 'this evidence'}, valid are {valid}")
        return graph

    def _parts(self, needs: Needs) -> list[Needs]:
        if needs.guided and needs.saliency:
            return [*self._parts(replace(needs, saliency=False)), Needs(saliency=True)]
        if self._graph_for(needs) or not (needs.guided or needs.saliency) or not needs.layers:
            return [needs]
        return [replace(needs, layers=()), replace(needs, guided=False, saliency=False)]

    def _graph_for(self, needs: Needs) -> GraphSession | None:
        """The smallest graph that holds the evidence."""
        if needs.beside not in self._beside or (needs.beside and {*needs.layers} - {*self.layers[:1]}):
            return None
        for kind in (kind for kind in KINDS if kind in self._graphs and kind != KIND_BEHIND):
            known = self._graphs[kind].description
            if {*needs.layers} <= {*known.layers} and {*_outputs_of(needs, known)} <= {*known.outputs}:
                return self._due[kind]
        return None

    @property
    def _due(self) -> dict[str, GraphSession]:
        return self._of_one_thread if self._is_busy() else self._graphs


def _find(graph: GraphSession, inputs: Floats, pairs: Pairs, asked: Pairs, needs: Needs) -> Evidence:
    """The evidence of the pairs that are asked for, out of ``pairs``, which has each row at least once."""
    started = time.perf_counter()
    known = graph.description
    of_pairs: Arrays = {"target": pairs.wanted} if "target" in known.inputs else {}
    if "weights" in known.inputs:
        classes = pairs.wanted
        if (~pairs.weights.any(axis=1) & (classes == TOP)).any():  # the scores say which class is at the top
            none = np.zeros((len(inputs), len(known.labels)), np.float32)
            classes = pairs.classes(graph.infer({"input": inputs, "weights": none}, ["logits"])[0][pairs.rows])
        of_pairs = {"weights": pairs.seeds(classes)}
    elif pairs.weights.any():
        of_pairs = {**of_pairs, "weights": pairs.weights}
    found = _run(graph, inputs, pairs.rows, of_pairs, _outputs_of(needs, known))
    first_pairs = np.unique(pairs.rows, return_index=True)[1]  # all pairs of a row have the same logits
    logits = found["logits"][first_pairs]
    if len(asked.rows) < len(pairs.rows):
        kept = np.isin(pairs.rows, asked.rows)
        found = {name: values[kept] for name, values in found.items()}
    layers = {path: LayerEvidence(*(found[name + known.layers[path]] for name in _AT_LAYER)) for path in needs.layers}
    outputs = {"guided": "guided_backprop", "saliency": "saliency", "attention": needs.attention}
    made: Any = {part: found.get(output) for part, output in outputs.items()}
    made |= {"classes": asked.classes(logits[asked.rows]), "coverage": known.coverage if needs.guided else None}
    made |= {"engine": OnnxEngine.name, "explain_ms": (time.perf_counter() - started) * 1e3}
    return Evidence(logits=logits, input_size=inputs.shape[2:], rows=asked.rows, layers=layers, **made)


def _outputs_of(needs: Needs, known: GraphDescription) -> list[str]:
    at_layers = [f"{name}{known.layers[path]}" for path in needs.layers for name in _AT_LAYER]
    others = {"guided_backprop": needs.guided, "saliency": needs.saliency, needs.attention: bool(needs.attention)}
    return ["logits", *at_layers, *(name for name, wanted in others.items() if wanted)]


def _run(graph: GraphSession, inputs: Floats, rows: Indices, of_pairs: Arrays, names: list[str]) -> dict[str, Floats]:
    """The outputs (M, …) by name for ``inputs[rows]`` (M, C, H, W) and the pairs' other inputs (M, …)."""
    counts, parts = np.bincount(rows)[rows], []
    alone = np.flatnonzero(counts == 1)  # a chunk has pictures with one target each, or all targets of one picture
    chunks = [alone[start : start + _AT_ONCE] for start in range(0, len(alone), _AT_ONCE)]
    chunks += [np.flatnonzero(rows == row) for row in np.unique(rows[counts > 1])]
    for chunk in chunks:
        given = {name: values[chunk] for name, values in of_pairs.items()}
        if counts[chunk[0]] > 1:
            parts.append(graph.infer_targets(inputs[rows[chunk[:1]]], given, names))
        else:
            pictures = inputs if len(chunk) == len(inputs) else inputs[rows[chunk]]  # copies only where it must
            parts.append(graph.infer({"input": pictures, **given}, names))
    if len(parts) == 1:  # most batches; copies would take longer than small parts of the graph
        return dict(zip(names, parts[0], strict=True))
    order = np.concatenate(chunks).argsort()
    return {name: np.concatenate(values)[order] for name, values in zip(names, zip(*parts, strict=True), strict=True)}
