"""Pictures, probes and questions in one batch; no server, no torch."""

import json
import subprocess
import threading
from dataclasses import replace

import pytest

from handler.client.replay import read_receipt
from handler.errors import ModelError
from handler.graphs.auto_engine import Choice
from handler.protocol.answer import FORMS, HTML, OK, PROBE
from handler.protocol.options import Options
from handler.protocol.receipt import is_signed, read_key
from handler.protocol.row import Row
from handler.service import Service
from handler.serving.settings import Settings
from handler.serving.threads import Share, usable_cores
from tests.support.engines import CARD, BrightnessEngine, picture, rows_of

GRAPHS = {"prediction": "ab" * 32}
CHOICE = Choice(engine=BrightnessEngine(), configured="auto", graphs=GRAPHS, reason="the rest is for torch")
ENGINES = {"configured": "auto", "graphs": ["prediction"], "reason": "the rest is for torch"}


@pytest.fixture
def service():
    return Service(CHOICE, CARD, Settings(defaults=Options(maps=("gradcam",))))


def row(**said):
    return Row(**{"fields": {}, **said})


def told(answer):
    return answer.status, answer.outcome, json.loads(answer.body)


def test_each_row_of_a_mixed_batch_gets_its_own_kind_of_answer(service):
    picture_row = row(fields={"data": picture(50)})
    kinds = [picture_row, row(path="healthz"), row(describes=True), row(path="gone"), picture_row, row()]
    answers = service.answer_batch(kinds)
    assert [one.status for one in answers] == [200, 200, 200, 404, 200, 400]
    assert [one.outcome for one in answers] == [OK, PROBE, PROBE, "NotFound", OK, "BadRequest"]
    assert [len(one.observed) for one in answers] == [1, 0, 0, 0, 1, 0]
    assert service.answer_batch([]) == []


class Meeting(BrightnessEngine):
    """Each pass waits until another one has begun."""

    def __init__(self, share):
        super().__init__()
        self.share, self.busy, self.both = share, [], threading.Barrier(2)

    def run(self, *args):
        self.busy.append(self.share.is_busy())
        self.both.wait(30)
        return super().run(*args)


def test_rows_that_fill_the_threads_are_answered_side_by_side_and_in_their_order():
    settings, share = Settings(defaults=Options(maps=())), Share(2, {})
    rows = rows_of([{"data": picture(50)}, {"data": b""}, {"data": picture(200)}])
    engine = Meeting(share)
    answers = Service(replace(CHOICE, engine=engine), CARD, settings, share).answer_beside(rows)
    assert [one.status for one in answers] == [200, 400, 200]
    assert [told(one)[2]["predictions"][0]["label"] for one in (answers[0], answers[2])] == ["dark", "light"]
    assert (engine.batches, engine.busy[0], share.is_busy()) == ([1, 1], True, False)


@pytest.mark.parametrize(("threads", "graphs"), [(3, GRAPHS), (1, GRAPHS), (2, {})])
def test_other_batches_share_a_pass(threads, graphs):
    choice = replace(CHOICE, engine=BrightnessEngine(), graphs=graphs)
    served = Service(choice, CARD, Settings(defaults=Options(maps=())), Share(threads, {}))
    answers = served.answer_beside(rows_of([{"data": picture(50)}, {"data": picture(200)}]))
    assert [told(one)[2]["predictions"][0]["label"] for one in answers] == ["dark", "light"]
    assert choice.engine.batches == [2]


def test_the_probe_says_what_answers_and_how_much_was_computed(service):
    service.answer_batch([row(fields={"data": picture(value)}) for value in (50, 60)])
    (probe,) = service.answer_batch([row(path="healthz")])
    assert told(probe) == (
        200,
        PROBE,
        {
            "status": "ready",
            "model": CARD.summary("test"),
            "engines": ENGINES,
            "pictures": {"computed": 2, "not_finite": 0},
            "threads": usable_cores(),
        },
    )


def test_the_description_is_the_cards_and_what_answers(service):
    (described,) = service.answer_batch([row(describes=True)])
    assert told(described) == (200, PROBE, json.loads(json.dumps({**CARD.description("test"), "engines": ENGINES})))


@pytest.mark.parametrize("path", ["else", "healthz/more", "healthzz"])
@pytest.mark.parametrize("fields", [{}, {"data": picture(50)}], ids=["nothing", "picture"])
def test_nothing_else_answers_below_the_models_path(service, path, fields):
    (answer,) = service.answer_batch([row(path=path, fields=fields)])
    said = "nothing answers pictures below" if fields else "nothing answers below the model's path but healthz"
    status, outcome, content = told(answer)
    assert (status, outcome) == (404, "NotFound")
    assert content["message"].startswith(said)


@pytest.mark.parametrize("asked", [{"path": "healthz"}, {"describes": True}])
def test_a_picture_is_no_question_whatever_is_said_beside_it(service, asked):
    (answer,) = service.answer_batch([row(fields={"data": picture(50)}, **asked)])
    assert answer.outcome == (OK if "describes" in asked else "NotFound")


@pytest.mark.parametrize("differing", [[], ["logits", "saliency"]])
def test_disagreements_are_counted_also_where_there_are_none(differing):
    service = Service(replace(CHOICE, disagreements=differing), CARD, Settings())
    counted = [(one.name, one.value) for one in service.metrics.take()]
    assert counted == [("explainer_engine_disagreements_total", len(differing))]


@pytest.fixture
def key(tmp_path):
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", "key.pem"], cwd=tmp_path, check=True)
    return tmp_path / "key.pem"


@pytest.mark.parametrize("accept", [form for form in FORMS if form != HTML])  # whose page holds the JSON
def test_the_receipt_of_every_form_is_signed_if_the_settings_name_a_key(key, accept):
    public = read_key(key, "private").public_key()
    rows = rows_of([{"data": picture(50)}, {"data": picture(50)}], [{"accept": accept}] * 2)
    signing = Service(CHOICE, CARD, Settings(defaults=Options(maps=("gradcam",)), receipt_key=str(key)))
    first, second = (read_receipt(answer.body) for answer in signing.answer_batch(rows))
    assert is_signed(first, public)
    assert first == second, "Ed25519 signs without chance"
    unsigned = {name: value for name, value in first.items() if name != "signature"}
    plain = Service(CHOICE, CARD, Settings(defaults=Options(maps=("gradcam",))))
    assert [read_receipt(answer.body) for answer in plain.answer_batch(rows[:1])] == [unsigned]


def test_a_key_that_cannot_be_used_stops_the_start(tmp_path):
    with pytest.raises(ModelError, match=r"none\.pem cannot be used"):
        Service(CHOICE, CARD, Settings(receipt_key=str(tmp_path / "none.pem")))


def test_threads_follow_the_workers_before_a_batch_whatever_it_asks_for(monkeypatch):
    used, share = [], Share(0, {}, lambda: 1)
    monkeypatch.setattr(share, "follow", lambda resize: resize(3))
    served = Service(replace(CHOICE, use_threads=used.append), CARD, Settings(), share)
    assert served.answer_batch([Row(fields={}, path="healthz")])[0].status == 200
    assert used == [3]
