import base64
import io
import json

import numpy as np
import pytest

from handler.errors import BadRequest, NotAnImage, NotFinite, NotFound, TooLarge, Unprocessable
from handler.protocol.answer import Answer, error_answer, json_answer
from handler.rendering.render import encode_list, encode_npy


def test_listed_numbers_restore_the_array_and_nan_becomes_null():
    values = np.array([[1 / 3, -1e-7 / 3], [0, np.nan]], np.float32)
    listed = encode_list(values)
    assert listed[1] == [0, None]
    np.testing.assert_allclose(listed[0], values[0], rtol=1e-7)
    assert len(json.dumps(listed[0][0])) <= 10


def test_npy_is_loaded_back_exactly():
    values = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    loaded = np.load(io.BytesIO(base64.b64decode(encode_npy(values))))
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, values)


def test_json_is_sent_as_it_is_written():
    assert json_answer({"label": "Käfer"}) == Answer(
        body='{"label": "Käfer"}'.encode(), content_type="application/json", status=200, phrase="OK"
    )


def test_nan_is_never_sent_as_json():
    with pytest.raises(ValueError, match="JSON compliant"):
        json_answer({"value": float("nan")})


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (BadRequest, 400),
        (NotFound, 404),
        (TooLarge, 413),
        (NotAnImage, 415),
        (Unprocessable, 422),
        (NotFinite, 422),
    ],
)
def test_an_error_carries_its_status_in_line_and_body_and_client_text_only_in_the_body(kind, status):
    answer = error_answer(kind("bad \r\n ☃"))
    assert answer.status == status
    assert answer.phrase.isascii()
    assert answer.phrase.replace(" ", "").isalpha()
    assert json.loads(answer.body) == {
        "code": status,
        "type": kind.__name__,
        "message": "bad \r\n ☃",
        "error": "bad \r\n ☃",
    }


def test_our_own_failure_tells_nothing_of_its_inside():
    answer = error_answer(OSError("a secret path"))
    assert answer.status == 500
    assert b"secret" not in answer.body
