"""The served model: answers pictures, probes and questions about the model."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from handler.errors import NotFound
from handler.graphs.auto_engine import Choice
from handler.page.compose import page_answer
from handler.protocol.answer import HTML, PROBE, Answer, error_answer, json_answer
from handler.protocol.model_card import ModelCard
from handler.protocol.request import accepted
from handler.protocol.row import Row
from handler.serving.answering import Answering
from handler.serving.explainer import Explainer
from handler.serving.settings import Settings
from handler.serving.threads import Share
from handler.telemetry.metrics import ENGINE_DISAGREEMENTS, Metrics


class Service:
    """A loaded model."""

    def __init__(self, choice: Choice, card: ModelCard, settings: Settings, share: Share | None = None) -> None:
        """Takes the parts of a loaded model, and the worker's share of the threads."""
        self._share = share or Share(settings.threads, {})
        self._choice = choice
        self._card = card
        self._explainer = Explainer(choice.engine, card)
        self._answering = Answering(self._explainer, settings, self._share.threads)
        self.metrics = Metrics()  # a front reports them
        # counted at 0, too: rate() does not see the first increase of a series that begins with it
        self.metrics.count(ENGINE_DISAGREEMENTS, len(choice.disagreements))

    def answer_batch(self, rows: Sequence[Row]) -> list[Answer]:
        """Answers each row of a batch: pictures, probes (``…/healthz``) and questions about the model."""
        self._share.follow(self._choice.use_threads)
        answers = [self._answer_without_picture(row) for row in rows]
        pictures = [row for row, answer in zip(rows, answers, strict=True) if answer is None]
        explained = iter(self._answering.answer_batch(pictures))
        return [answer or next(explained) for answer in answers]

    def answer_beside(self, rows: Sequence[Row]) -> list[Answer]:
        """Answers a batch that no other overlaps; graphs answer rows as many as threads side by side, a thread each."""
        threads = self._share.threads
        if not self._choice.graphs or len(rows) < max(2, threads) or threads == 1:
            return self.answer_batch(rows)
        self._share.due = [*rows]
        with ThreadPoolExecutor(threads, "row") as pool:
            return list(pool.map(self._answer_row, rows))

    def _answer_row(self, row: Row) -> Answer:
        try:
            return self.answer_batch([row])[0]
        finally:
            self._share.due.pop()

    def _answer_without_picture(self, row: Row) -> Answer | None:
        """The answer to a row without a picture; None for a row with fields, whatever its headers say."""
        if any(row.fields.values()):  # a client can send the headers by which a server marks probes and questions
            return error_answer(NotFound("nothing answers pictures below the model's path")) if row.path else None
        if row.describes:
            description = self._card.description(self._choice.engine.name)
            return json_answer({**description, "engines": self._choice.to_dict()}, PROBE)
        if row.path == "healthz":
            summary = self._card.summary(self._choice.engine.name)
            state = {"status": "ready", "model": summary, "engines": self._choice.to_dict()}
            return json_answer({**state, "pictures": self._explainer.pictures, "threads": self._share.threads}, PROBE)
        if row.path:
            return error_answer(NotFound("nothing answers below the model's path but healthz"))
        if accepted(row.accept) == HTML:
            known = {"models": list(row.models)} if row.models else {}
            return page_answer({"card": self._card.description(self._choice.engine.name), "answers": [], **known})
        return None
