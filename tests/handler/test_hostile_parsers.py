"""Everything that reads what a client sent returns, or raises a ``RequestError``, and nothing else."""

import json
import random
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from benchmarks.reliability.fuzz.bodies import json_request, odd_value
from benchmarks.reliability.fuzz.bombs import bomb
from benchmarks.reliability.fuzz.corpus import SEEDS
from benchmarks.reliability.fuzz.pictures import bent_picture
from handler.errors import RequestError
from handler.picture.decode import decode
from handler.protocol.answer import error_answer
from handler.protocol.options import Options, parse_options, shown
from handler.protocol.request import accepted, parse_row
from handler.protocol.row import Row
from handler.torchserve_entry import read_row

NAMES = ("target", "maps", "method", "layer", "top_k", "size", "encoding", "overlay", "Top-K", "other")
TEXT = st.text(st.characters(), max_size=40) | st.sampled_from(
    ["top", "none", "all", "auto", "0", "1e999", "nan", "jet"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=12) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=12,
)
HEADERS = st.dictionaries(
    TEXT | st.sampled_from(["Accept", "content-type", "X-Explain-Maps", "x-explain-", "X-EXPLAIN-TOP_K", "explain"]),
    TEXT | st.dictionaries(st.just("content-type"), TEXT, max_size=1),
    max_size=5,
)
ROWS = st.dictionaries(st.sampled_from(["body", "data", "image", *NAMES]) | TEXT, VALUES, max_size=4)
# the same examples each time: chance is for `make fuzz`
often = settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def returned_or_refused(call):
    """What a call returned; None if it was refused, whose answer can then be sent."""
    try:
        return call()
    except RequestError as error:
        answer = error_answer(error)
        assert json.loads(answer.body)["code"] == answer.status
        assert len(answer.body) < 5000
        return None


@often
@example({"body": {"image": "aGFsbG8="}}, {})  # one that is accepted: chance finds few
@example({"body": {"instances": ["aGFsbG8=", "aGFsbG8="]}}, {})
@given(ROWS, HEADERS)
def test_rows(row, headers):
    request = returned_or_refused(lambda: parse_row(read_row(row, headers), Options()))
    assert request is None or request.accept in ("application/json", "image/png")
    assert request is None or (request.asked and all(one.image for one in request.asked))


@often
@given(
    st.binary(max_size=300) | st.text(max_size=200).map(lambda text: ('{"image": "' + text).encode("utf-8", "replace"))
)
def test_bodies(body):
    returned_or_refused(lambda: parse_row(Row(fields={"body": body}), Options()))
    returned_or_refused(
        lambda: parse_row(Row(fields={"body": bytearray(body)}, content_type="application/json"), Options())
    )


@often
@given(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=3))
def test_options(given_options):
    options = returned_or_refused(lambda: parse_options(given_options, Options()))
    if options is not None:
        assert 0 <= options.overlay.image_weight <= 1
        assert options.top_k is None or options.top_k >= 1
        assert 1 <= len(options.target) <= 10


@often
@given(TEXT | st.lists(st.sampled_from(["image/png", "*/*", "q=", ";", ",", "nan", "-1", " ", "1e999"])).map("".join))
def test_accept(header):
    assert accepted(header) in ("application/json", "image/png")


@often
@given(HEADERS)
def test_headers(values):
    row = read_row({"body": b"12"}, values)
    assert all(isinstance(value, str) for value in (*row.options.values(), row.accept, row.path, row.content_type))
    assert row.body_size >= 0


@often
@given(st.sampled_from(sorted(SEEDS)), st.data())
@pytest.mark.filterwarnings("ignore")  # Pillow's, about bent metadata
def test_pictures(name, data):
    seed = SEEDS[name]
    place = data.draw(st.integers(0, len(seed)))
    bent = seed[:place] + data.draw(st.binary(max_size=12)) + seed[place + data.draw(st.integers(0, 12)) :]
    picture_or_refused(bent)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [bent_picture, bomb])
def test_generated_pictures(make):
    for number in range(80):
        picture_or_refused(make(random.Random(f"parsers:{number}"))[1])


def picture_or_refused(data: bytes) -> None:
    found = returned_or_refused(lambda: decode(data))
    assert found is None or ((found.dtype, found.ndim, found.shape[2]) == (np.uint8, 3, 3) and found.size)


def test_generated_json():
    """As TorchServe hands it over: parsed where that is possible, else as bytes."""
    for number in range(800):
        body = bytearray(json_request(random.Random(f"parsers:{number}")).body)
        row = {"body": body}
        with suppress(ValueError, RecursionError):
            row = {"body": json.loads(bytes(body))}
        returned_or_refused(lambda row=row: parse_row(Row(fields=row, content_type="application/json"), Options()))


@pytest.mark.parametrize("name", NAMES)
def test_generated_values(name):
    for number in range(300):
        value = odd_value(random.Random(f"{name}:{number}"))
        returned_or_refused(lambda value=value: parse_options({name: value}, Options()))


def test_a_value_nested_as_deeply_as_can_be_parsed_is_refused_like_any_other():
    value: list = []
    for _ in range(2000):  # deeper than repr goes from anywhere
        value = [value]
    assert shown(value) == "a value nested too deeply"
    assert returned_or_refused(lambda: parse_options({"target": [value]}, Options())) is None
