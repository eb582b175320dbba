"""Rows stand alone: whatever a batch mixes, each row's answer is byte for byte the one that it gets alone."""

import json
import random
import re

import pytest

from tests.support.engines import BrightnessEngine, answering, picture, rows_of, text_of

TENSOR = {"datatype": "BYTES", "shape": [2], "data": [text_of(50), text_of(200)]}
ROWS = {
    "form": ({"data": picture(50)}, {}),
    "form of a prediction": ({"data": picture(200), "maps": b"none", "top_k": b"1"}, {}),
    "form with two targets": ({"image": picture(90), "target": b"light,dark", "encoding": b"list"}, {}),
    "raw": ({"body": bytearray(picture(210))}, {"options": {"size": "layer", "encoding": "npy"}}),
    "raw at the upload's size": ({"body": picture(60)}, {"options": {"size": "image"}}),
    "sheet": ({"data": picture(70)}, {"accept": "image/png"}),
    "sheet without maps": ({"data": picture(70), "maps": b"none"}, {"accept": "image/png"}),
    "report": ({"data": picture(70), "trust": b"true"}, {"accept": "text/html"}),
    "report without maps": ({"data": picture(70), "maps": b"none"}, {"accept": "text/html"}),
    "json": ({"body": {"image": text_of(80), "target": [1], "overlay": [0.2, "bone"]}}, {}),
    "json as bytes": ({"body": json.dumps({"image": text_of(80)}).encode()}, {}),
    "explained": ({"data": picture(50)}, {"explains": True}),
    "v1": ({"body": {"instances": [text_of(50), {"image": text_of(200), "maps": "none"}]}}, {}),
    "v1 explained": ({"body": {"instances": [text_of(90)]}}, {"explains": True}),
    "v2": ({"body": {"inputs": [TENSOR], "parameters": {"encoding": "list"}, "id": "ü"}}, {}),
    "no picture": ({"data": b"hello"}, {}),
    "unknown target": ({"data": picture(50), "target": b"zebra"}, {}),
    "fails in the engine": ({"data": picture(255)}, {}),
    "refused by the engine": ({"data": picture(0)}, {}),
    "v1 that fails in the engine": ({"body": {"instances": [text_of(50), text_of(255)]}}, {}),
    "v2 refused by the engine": ({"body": {"inputs": [{**TENSOR, "data": [text_of(50), text_of(0)]}]}}, {}),
    "v2 of another type": ({"body": {"inputs": [{**TENSOR, "datatype": "FP32"}]}}, {}),
    "a map that there is not": ({"data": picture(50), "maps": b"heat"}, {}),
    "part named like a header": ({"data": picture(50), "Accept": b"image/png"}, {}),
    "nothing": ({}, {}),
}


def answers_to(names):
    serving = answering(BrightnessEngine())
    rows, headers = zip(*(ROWS[name] for name in names), strict=True)
    return [
        (one.status, one.phrase, one.content_type, one.headers, re.sub(rb'timings_ms\\*": {[^}]*}', b"", one.body))
        for one in serving.answer_batch(rows_of(rows, headers))
    ]


@pytest.fixture(scope="module")
def alone():
    return {name: answers_to([name])[0] for name in ROWS}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_beside_each_other_kind(alone, name):
    for other in ROWS:
        assert answers_to([other, name, other]) == [alone[other], alone[name], alone[other]], other


@pytest.mark.parametrize("seed", range(20))
def test_a_batch_of_anything(alone, seed):
    chance = random.Random(seed)
    names = chance.choices(list(ROWS), k=chance.randint(2, 32))
    assert answers_to(names) == [alone[name] for name in names]


def test_the_rows_are_of_all_kinds(alone):
    assert {status for status, *_ in alone.values()} == {200, 400, 415, 422, 500}
    assert sum(status == 200 for status, *_ in alone.values()) == 14
