"""Metrics, dashboard and log of a running server."""

import contextlib
import json
import re
import socket
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import requests
import yaml
from PIL import Image

from export.packing.archive import DEFAULT_CONFIG
from tests.support.scraping import Scraped, scrape, scrape_until, value
from tests.support.serving import ONE, ROOT, TWO, Client, encoded, repacked, serving

pytestmark = pytest.mark.server

PICTURE = ONE.read_bytes()
OPERATOR = "deploy/kubernetes/components/prometheus-operator"
FORGED = "[METRICS]evil_7f3a.count:1|#Level:Model|#hostname:x,1"
BATCH = 4


@dataclass(frozen=True)
class Observed:
    """A server that answers in batches, and its logs."""

    client: Client
    logs: Path

    def requests_logged(self) -> list[dict]:
        """The requests' own lines, oldest first."""
        lines = (self.logs / "model_log.log").read_text(encoding="utf-8").splitlines()
        found = [re.fullmatch(r".* MODEL_LOG - (\{.*\})", line) for line in lines]
        return [json.loads(one[1]) for one in found if one]

    def lines_of(self, answers: list[requests.Response]) -> list[dict]:
        """The lines of these answers' requests, once the log has them all."""
        ids = [one.headers["x-request-id"] for one in answers]

        def logged() -> bool:
            lines.update((one["request"], one) for one in self.requests_logged())
            return set(ids) <= set(lines)

        lines: dict[str, dict] = {}
        self.await_that(logged)
        return [lines[one] for one in ids]

    def await_that(self, holds: Callable[[], bool], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, (self.logs / "model_log.log").read_text(encoding="utf-8")[-2000:]
            time.sleep(0.05)

    def total(self) -> float:
        return value(scrape(self.client.server), "explainer_requests_total")

    def scrape_after(self, count: float) -> Scraped:
        """The metrics once that many requests are counted."""
        return scrape_until(self.client.server, lambda scraped: value(scraped, "explainer_requests_total") >= count)


@pytest.fixture(scope="module")
def observed(tmp_path_factory, shapes_archive) -> Iterator[Observed]:
    store, logs = tmp_path_factory.mktemp("store"), tmp_path_factory.mktemp("logs")
    config = DEFAULT_CONFIG.read_text(encoding="utf-8").replace("batchSize: 2", f"batchSize: {BATCH}")
    repacked(shapes_archive, store / "shapes.mar", config)
    with serving(store, "shapes", logs) as client:
        yield Observed(client, logs)


def black() -> bytes:
    return encoded(Image.new("RGB", (40, 40)), "PNG")


# what is asked, how often, and the labels that it is counted under
ASKED = [
    ({"maps": "none"}, 5, {"engine": "onnx", "method": "none"}, ("decode", "infer", "render")),
    ({"maps": "gradcam"}, 3, {"engine": "onnx", "method": "gradcam"}, ("decode", "explain", "render")),
    ({"maps": "saliency"}, 2, {"engine": "torch", "method": "gradient"}, ("decode", "infer", "explain", "render")),
    ({"layer": "stage3.1"}, 1, {"engine": "torch", "method": "gradcam"}, ("decode", "infer", "explain", "render")),
]
REFUSED = [
    ({"data": {"target": "zebra"}, "files": {"data": PICTURE}}, 400, "BadRequest"),
    ({"files": {"data": b"no picture"}}, 415, "NotAnImage"),
    (
        {"files": {"data": TWO.read_bytes()}, "data": {"target": "0,1,2,3,4,5", "maps": "all", "encoding": "list"}},
        413,
        "TooLarge",
    ),
]


def test_every_request_is_counted_and_measured_exactly_once(observed):
    client, server = observed.client, observed.client.server
    before = scrape(server)
    forms = [options for options, times, _, _ in ASKED for _ in range(times)]
    with ThreadPoolExecutor(BATCH) as pool:  # so that batches are mixed
        answers = list(pool.map(lambda options: client.form(PICTURE, **options), forms))
        refused = list(pool.map(lambda one: client.post(**one[0]), REFUSED))
    assert [one.status_code for one in answers] == [200] * len(forms)
    assert [one.status_code for one in refused] == [status for _, status, _ in REFUSED]
    asked = len(forms) + len(REFUSED)
    after = observed.scrape_after(value(before, "explainer_requests_total") + asked)

    def rise(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    for _, times, labels, stages in ASKED:
        assert rise("explainer_requests_total", outcome="ok", **labels) == times, labels
        assert rise("explainer_request_seconds_count", outcome="ok", **labels) == times
        for stage in ("decode", "infer", "explain", "render"):
            name = f"explainer_{stage}_seconds"
            ran = times if stage in stages else 0
            assert rise(f"{name}_count", outcome="ok", **labels) == ran, (stage, labels)
            assert rise(f"{name}_bucket", outcome="ok", le="+Inf", **labels) == ran
    for _, _, outcome in REFUSED:
        assert rise("explainer_requests_total", outcome=outcome) == 1
        assert rise("explainer_request_seconds_count", outcome=outcome, engine="none", method="none") == 1
    assert rise("explainer_requests_total") == rise("explainer_request_seconds_count") == asked
    assert rise("explainer_maps_total") == 3 + 2 + 3  # those of the layer are the three of the default
    assert rise("ts_inference_requests_total", model_version="default") == asked
    assert rise("Requests4XX") == len(REFUSED)


def test_histograms_are_in_seconds_and_agree_with_the_answers(observed):
    before = scrape(observed.client.server)
    answer = observed.client.form(PICTURE, maps="gradcam").json()
    after = observed.scrape_after(value(before, "explainer_requests_total") + 1)
    for stage, milliseconds in answer["timings_ms"].items():
        name = f"explainer_{stage}_seconds_sum"
        assert value(after, name) - value(before, name) == pytest.approx(milliseconds / 1e3, abs=2e-5)


def test_a_map_without_evidence_is_counted(observed):
    before = scrape(observed.client.server)
    answers = [observed.client.form(black(), maps="gradcam", target=str(index)).json() for index in range(10)]
    degenerate = sum(one["explanations"][0]["maps"]["gradcam"]["degenerate"] for one in answers)
    assert 0 < degenerate < 10
    after = observed.scrape_after(value(before, "explainer_requests_total") + 10)
    for name, expected in {"explainer_degenerate_maps_total": degenerate, "explainer_maps_total": 10}.items():
        labels = {"engine": "onnx", "method": "gradcam"}
        assert value(after, name, **labels) - value(before, name, **labels) == expected


def test_probes_and_descriptions_are_not_counted(observed):
    before, labels = scrape(observed.client.server), {"engine": "onnx", "method": "none", "outcome": "ok"}
    for _ in range(3):
        assert requests.get(f"{observed.client.address}/1.0/healthz", timeout=60).status_code == 200
    observed.client.describe()
    observed.client.form(PICTURE, maps="none")  # the last: what was counted before is exposed when this is

    def rise(scraped: Scraped, **which: str) -> float:
        return value(scraped, "explainer_requests_total", **which) - value(before, "explainer_requests_total", **which)

    after = scrape_until(observed.client.server, lambda scraped: rise(scraped, **labels) == 1)
    assert rise(after) == 1


def test_only_what_is_declared_is_exposed_and_what_is_ours_from_the_start(observed):
    declared = yaml.safe_load((ROOT / "deploy/metrics.yaml").read_text(encoding="utf-8"))
    known = {one["name"] for section in declared.values() for kind in section.values() for one in kind}
    before = observed.total()
    observed.client.form(PICTURE)
    scraped = observed.scrape_after(before + 1)
    assert {re.sub(r"_(bucket|count|sum)$", "", name) for name, _ in scraped} <= known
    assert value(scraped, "explainer_engine_disagreements_total", ModelName="shapes") == 0
    assert any(name == "explainer_engine_disagreements_total" for name, _ in scraped)
    assert value(scraped, "explainer_resident_bytes") > 100e6


WORDS = {"sum", "max", "rate", "by", "histogram_quantile", "label_values", "e6"}  # of the queries' language


def dashboard() -> list[str]:
    """The queries of the dashboard."""
    shown = json.loads((ROOT / "deploy/grafana/dashboard.json").read_text(encoding="utf-8"))
    variables = [variable["query"] for variable in shown["templating"]["list"] if variable["type"] == "query"]
    return [target["expr"] for panel in shown["panels"] for target in panel["targets"]] + variables


def alerts() -> list[str]:
    """The queries of the alerts."""
    rules = yaml.safe_load((ROOT / OPERATOR / "prometheusrule.yaml").read_text(encoding="utf-8"))
    return [rule["expr"] for group in rules["spec"]["groups"] for rule in group["rules"]]


def names_in(query: str) -> tuple[set[str], set[str]]:
    """The metrics and the labels that a query names."""
    bare = re.sub(r'"[^"]*"|\[[^\]]*\]', "", query)  # without values and ranges
    labels = set(re.findall(r"(\w+)\s*=", re.sub(r"~", "", bare)))
    for group in re.findall(r"\bby \(([^)]*)\)|label_values\(\w+, (\w+)\)", bare):
        labels |= {one.strip() for one in "".join(group).split(",")}
    return set(re.findall(r"[A-Za-z_]\w*", bare)) - WORDS - labels, labels


def test_the_dashboard_and_the_alerts_ask_only_for_what_is_exposed(observed):
    before = observed.total()
    observed.client.form(PICTURE)
    observed.client.form(PICTURE, layer="stage3.1")
    observed.client.form(b"no picture")
    observed.scrape_after(before + 3)
    scraped = scrape_until(observed.client.server, lambda now: any(name == "MemoryUtilization" for name, _ in now))
    labels: dict[str, set[str]] = {}
    for name, its in scraped:
        labels.setdefault(name, set()).update(label for label, _ in its)
    labels.setdefault("Requests5XX", labels["Requests4XX"])  # declared like it; there is no 5xx to be had here
    asked = dashboard() + alerts()
    assert len(asked) > 20
    for query in asked:
        metrics, used = names_in(query)
        assert metrics, query
        for metric in metrics:
            assert metric in labels, (query, metric)
            assert used <= labels[metric], (query, used - labels[metric])
    everywhere = set().union(*(names_in(query)[0] for query in asked))
    stages = {f"explainer_{stage}_seconds_bucket" for stage in ("decode", "infer", "explain", "render", "request")}
    assert stages <= everywhere


def test_the_dashboards_selection_is_the_models(observed):
    assert all("$model" in query for query in dashboard() if "explainer_" in query and "label_values" not in query)
    observed.client.form(PICTURE, maps="none")
    scrape_until(observed.client.server, lambda now: value(now, "explainer_requests_total", ModelName="shapes") > 0)


def raw_request(address: str, head: bytes, body: bytes) -> bytes:
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as one:
        one.sendall(head + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
        said = b""
        with contextlib.suppress(ConnectionResetError):  # after the answer, where the request was not read to its end
            while more := one.recv(65536):
                said += more
        return said


NASTY = [
    f"\n{FORGED}",
    f"\r\n{FORGED}",
    f"\r{FORGED}",
    f"\u2028{FORGED}",
    FORGED,
    "${jndi:ldap://127.0.0.1:9/evil_7f3a}",
    "evil_7f3a é☃\x1b[2J",
]


def chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


def test_no_clients_text_reaches_the_log(observed):
    client = observed.client
    answers = []
    for text in NASTY:
        for option in ("target", "layer", "maps", "overlay", text):
            answers.append(client.form(PICTURE, **{option: text}))
        answers.append(client.json({"image": text, text: text}))
        answers.append(client.json({"image": "aGFsbG8=", "target": [text]}))
        answers.append(client.post(data=text.encode(), headers={"Content-Type": "text/plain"}))
        answers.append(client.post(data=b'{"' + text.encode(), headers={"Content-Type": "application/json"}))
        answers.append(client.post(files={"data": (text, text.encode(), "image/png")}))
    assert {one.status_code for one in answers} <= {400, 415}
    secret = {
        "Authorization": "Bearer evil_7f3a",
        "Cookie": "evil_7f3a",
        "X-Explain-Target": "evil_7f3a",
        "X-Request-Id": "evil_7f3a",
    }
    assert client.post(data=PICTURE, headers=secret).status_code == 400
    path = f"/predictions/{client.server.model}".encode()
    for name in (
        b"X-Explain-Target: \xe9evil_7f3a\xff",
        b"X-Explain-[METRICS]evil_7f3a: 1",
        b"X-Explain-Target: a\r\n [METRICS]evil_7f3a",
    ):
        said = raw_request(client.server.address, b"POST " + path + b" HTTP/1.1\r\nHost: x\r\n" + name + b"\r\n", b"x")
        assert said.startswith(b"HTTP/1.1 400"), said[:100]
    assert client.form(PICTURE, maps="none").status_code == 200
    plain = encoded(Image.fromarray(np.zeros((30, 50, 3), np.uint8)), "PNG")
    name = b"x\n[METRICS]evil_7f3a.ms:9|#Level:Model|#type:GAUGE\n"
    named, short = chunk(b"iCCP", name + b"\0\0" + zlib.compress(b"no profile")), chunk(b"tIME", b"x")
    answers = [client.form(plain[:33] + one + plain[33:], maps="none") for one in (named, short)]
    assert [one.status_code for one in answers] == [200, 200]
    observed.lines_of(answers)  # the last line on the worker's standard output: what came before is in the log, too
    for name in ("model_log.log", "console.log"):
        log = (observed.logs / name).read_bytes()
        assert b"evil_7f3a" not in log, re.findall(rb".*evil_7f3a.*", log)[:3]
    line = re.compile(r"\d{4}-\d\d-\d\dT[\d:,]+ \[[A-Z]+ *\] \S+ MODEL_LOG - .*")
    for one in (observed.logs / "model_log.log").read_text(encoding="utf-8").splitlines():
        assert line.fullmatch(one), one
    assert "evil_7f3a" not in str(scrape(client.server))


def test_every_request_has_its_line_with_the_id_that_its_client_got(observed):
    client = observed.client
    picture = encoded(Image.fromarray(np.zeros((30, 50, 3), np.uint8)), "PNG")
    answers = [
        client.form(PICTURE, target="heart,arrow", maps="gradcam,saliency"),
        client.post(data=picture, headers={"X-Explain-Maps": "none", "Content-Type": "image/png"}),
        client.post(files={"data": PICTURE}, headers={"Accept": "image/png"}),
        client.form(PICTURE, top_k="0"),
    ]
    lines = observed.lines_of(answers)
    asked = [one.headers["x-request-id"] for one in answers]
    assert [one["request"] for one in observed.requests_logged() if one["request"] in asked] == asked
    assert [one["status"] for one in lines] == [200, 200, 200, 400]
    assert [one["outcome"] for one in lines] == ["ok", "ok", "ok", "BadRequest"]
    assert [one["bytes_out"] for one in lines] == [len(one.content) for one in answers]
    assert [one["bytes_in"] for one in lines] == [int(one.request.headers["Content-Length"]) for one in answers]
    explained, predicted, sheet, refused = lines
    assert (explained["engine"], explained["maps"], explained["targets"]) == ("torch", ["gradcam", "saliency"], 2)
    assert explained["stages_ms"] == answers[0].json()["timings_ms"]
    assert (predicted["engine"], predicted["method"], predicted["maps"], predicted["pixels"]) == (
        "onnx",
        "none",
        [],
        1500,
    )
    assert sheet["maps"] == ["gradcam", "guided_backprop", "guided_gradcam"]
    assert sheet["stages_ms"]["render"] > 0
    assert (refused["engine"], refused["pictures"]) == ("none", 0)
    assert all(one["ms"] >= sum(one["stages_ms"].values()) - 1 for one in lines[:3])
