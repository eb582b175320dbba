"""Makes results of jobs: the engine runs all pictures with equal needs in one pass."""

import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from threading import Lock
from typing import Any, TypeVar

import numpy as np

from handler.errors import NotFinite
from handler.explanation.class_weights import Mixture
from handler.explanation.evidence import Engine, EngineTarget, Evidence, Floats, Needs, best_classes, probabilities
from handler.explanation.maps import augmented, check_evidence, check_maps, check_scores, make_maps, makes_cam
from handler.explanation.probe import Probe
from handler.explanation.trust import Question, examine
from handler.protocol.model_card import ModelCard
from handler.protocol.receipt import provenance
from handler.rendering.result import Explanation, Prediction, Result, Target
from handler.serving.jobs import Job, in_passes, pairs_at_once

DEFAULT_TOP_K = 5
Outcome = Result | Exception
Made = TypeVar("Made")


class Explainer:
    """An engine and the card of its model; keeps two counts, and nothing of a job."""

    def __init__(self, engine: Engine, card: ModelCard) -> None:
        self._engine = engine
        self.card = card
        self.pictures = {"computed": 0, "not_finite": 0}  # since the start; "computed" includes "not_finite"
        self._counting = Lock()  # batches may overlap

    def explain_all(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Outcome]]:
        """Yields each job with its result or its error; a job's failure changes no other job's result.

        The order is that of the passes. The memory of a pass's evidence is free before the next pass begins.
        """
        for together in in_passes(jobs):
            for job, outcome in zip(together, self._outcomes(together), strict=True):
                with self._counting:
                    self.pictures["computed"] += 1
                    self.pictures["not_finite"] += isinstance(outcome, NotFinite)
                yield job, outcome

    def _outcomes(self, jobs: Sequence[Job]) -> Sequence[Outcome]:
        if len(jobs) == 1:
            outcomes = _attempt(self._run_in_parts, jobs[0])
            return [outcomes] if isinstance(outcomes, Exception) else outcomes
        outcomes = _attempt(self._run, jobs, [job.targets for job in jobs])
        if isinstance(outcomes, Exception):
            del outcomes  # an exception keeps the memory of the failed pass alive
            return [outcome for job in jobs for outcome in self._outcomes([job])]
        return outcomes

    def _run_in_parts(self, job: Job) -> list[Outcome]:
        """Runs a picture's targets in several passes: the evidence at many layers takes much more memory than maps."""
        most = pairs_at_once(job.needs)
        parts: list[Result] = []
        for start in range(0, len(job.targets), most):
            (part,) = self._run([job], [job.targets[start : start + most]])
            if isinstance(part, Exception):
                return [part]
            parts.append(part)
        stages = {stage: sum(part.timings_ms[stage] for part in parts) for stage in parts[0].timings_ms}
        explanations = [explanation for part in parts for explanation in part.explanations]
        return [replace(parts[0], explanations=explanations, timings_ms={**stages, "decode": job.decode_ms})]

    def _run(self, jobs: Sequence[Job], mixtures: Sequence[Sequence[Mixture]]) -> list[Outcome]:
        inputs = np.stack([job.canvas.seen.tensor for job in jobs])
        targets: list[list[EngineTarget]] = [[mixture.target for mixture in row] for row in mixtures]
        if not all(mixture.alone for mixture in chain.from_iterable(mixtures)):
            scores = self._scores(inputs)  # they decide about the weights
            mixtures = [[mixture.resolved(scores[row]) for mixture in found] for row, found in enumerate(mixtures)]
            targets = [[mixture.wanted(scores[row]) for mixture in found] for row, found in enumerate(mixtures)]
        evidence = self._engine.run(inputs, targets, jobs[0].needs)
        return [_attempt(self._result, evidence, row, job, mixtures[row]) for row, job in enumerate(jobs)]

    def _result(self, evidence: Evidence, row: int, job: Job, mixtures: Sequence[Mixture]) -> Result:
        """Makes a job's result of the evidence of a pass."""
        started, extra_ms = time.perf_counter(), 0.0
        logits = evidence.logits[row]
        check_scores(logits)
        chances, options = probabilities(logits, self.card.head), job.options
        make = partial(make_maps, method=options.method, at_layer=options.size == "layer", seed=options.seed)
        make = partial(make, eigen="eigen" in options.smooth)
        explanations = []
        pairs = zip(np.flatnonzero(evidence.rows == row).tolist(), mixtures, strict=True)
        for pair, asked in pairs if job.maps else ():
            check_evidence(evidence, pair)
            mixture = asked.resolved(logits)
            wanted = mixture.wanted(logits)
            changed = self._changed(job, wanted) if makes_cam(job.maps) else None
            probe = self._probe(job, mixture, logits)
            maps = make(evidence, pair, job.maps, changed=changed, probe=probe)
            check_maps(maps)
            extra_ms += probe.spent_ms + (changed.infer_ms + changed.explain_ms if changed else 0.0)
            explained = Explanation(
                target=self._target(mixture.target, logits, chances),
                contrast=None if mixture.contrast is None else self._target(mixture.contrast, logits, chances),
                against=mixture.against,
                method=options.method if makes_cam(job.maps) else None,
                layers=tuple(evidence.layers),
                maps=maps,
                passes=probe.taken,
            )
            if options.trust:
                started_trust = time.perf_counter()
                weights, remake = replace(mixture, similar=0).weights(logits), None if changed or probe.taken else make
                known: Any = {"tensor": job.canvas.seen.tensor, "target": wanted, "head": self.card.head}
                known |= {"measure": explained.measure, "method": options.method}
                question = Question(weights=weights, remake=remake, **known)
                trust = examine(self._engine, evidence, pair, maps, question, options.seed)
                explained = replace(explained, trust=trust)
                extra_ms += (time.perf_counter() - started_trust) * 1e3
            explanations.append(explained)
        pictures = len(evidence.logits)  # which share the time of the pass evenly
        timings = {
            "decode": job.decode_ms,
            "infer": evidence.infer_ms / pictures,
            "explain": evidence.explain_ms / pictures + extra_ms,
            "render": (time.perf_counter() - started) * 1e3 - extra_ms,
        }
        told: Any = {"predictions": self._predictions(logits, chances, options.top_k or DEFAULT_TOP_K)}
        told["provenance"] = provenance(self.card, evidence.engine, job.image_hash, job.resolved)
        told |= {"model": self.card.summary(evidence.engine), "timings_ms": timings}
        return Result(logits=logits, explanations=explanations, canvas=job.canvas, **told)

    def _changed(self, job: Job, target: EngineTarget) -> Evidence | None:
        """The evidence of the picture's changed copies at the layers; None if the map is not to be averaged."""
        if "augment" not in job.options.smooth:
            return None
        inputs = augmented(job.canvas.seen.tensor)
        evidence = self._engine.run(inputs, [[target]] * len(inputs), replace(job.needs, guided=False, saliency=False))
        for copy in range(len(inputs)):
            check_evidence(evidence, copy)
        return evidence

    def _scores(self, inputs: Floats) -> Floats:
        return self._engine.run(inputs, [()] * len(inputs), Needs()).logits

    def _probe(self, job: Job, mixture: Mixture, logits: Floats) -> Probe:
        picture, wanted = job.canvas.seen.tensor, mixture.wanted(logits)

        def differentiate(inputs: Floats) -> Floats:
            return np.asarray(self._engine.run(inputs, [[wanted]] * len(inputs), Needs(saliency=True)).saliency)

        known: Any = {"weights": mixture.weights(logits), "passes": job.passes, "head": self.card.head}
        known["behind"] = lambda layer, activations: self._engine.behind(picture[None], layer, activations)
        return Probe(picture=picture, answer=self._scores, differentiate=differentiate, **known)

    def _target(self, index: int, logits: Floats, chances: Floats) -> Target:
        label, logit, probability = self.card.labels[index], float(logits[index]), float(chances[index])
        return Target(index=index, label=label, logit=logit, probability=probability)

    def _predictions(self, logits: Floats, chances: Floats, top_k: int) -> list[Prediction]:
        by = chances if self.card.head == "softmax" else logits  # far from 0, sigmoids are equal in float32
        return [Prediction(index, self.card.labels[index], float(chances[index])) for index in best_classes(by, top_k)]


def _attempt(make: Callable[..., Made], *args: Any) -> Made | Exception:
    """What the function makes, or its error, without the variables that the error's traceback kept alive."""
    try:
        return make(*args)
    except Exception as error:
        traceback.clear_frames(error.__traceback__)
        return error
