"""Forms of a request as clients send them, over HTTP against both fronts."""

import base64
import gzip
import http.client
import json
import urllib.parse

import pytest
from PIL import Image

from handler.picture.decode import FORMATS
from handler.protocol.request import MOST_UNPACKED
from tests.support.serving import FRONTS, ONE, encoded, error_of, serving

pytestmark = pytest.mark.server

PICTURE = ONE.read_bytes()
TEXT = base64.b64encode(PICTURE).decode()
URI = f"data:image/jpeg;base64,{TEXT}"
JSON = json.dumps({"image": URI, "maps": "none", "top_k": 1})
PLAIN, NONE = {"Content-Type": "text/plain"}, {"X-Explain-Maps": "none", "X-Explain-Top-K": "1"}
TYPE = "application/json"
FORM = {"maps": "none", "top_k": "1"}


@pytest.fixture(scope="module", params=FRONTS)
def client(request, tmp_path_factory, shapes_archive):
    with serving(shapes_archive.parent, "shapes", tmp_path_factory.mktemp("logs"), request.param) as client:
        yield client


REQUESTS = {
    "gzip body": {"data": gzip.compress(PICTURE), "headers": {"Content-Encoding": "gzip", **NONE}},
    "gzip body that is called a picture": {
        "data": gzip.compress(PICTURE),
        "headers": {"Content-Type": "image/jpeg", **NONE},
    },
    "gzip JSON": {"data": gzip.compress(JSON.encode()), "headers": {"Content-Encoding": "gzip", "Content-Type": TYPE}},
    "gzip part of a form": {"files": {"data": gzip.compress(PICTURE)}, "data": FORM},
    "JSON as text": {"data": JSON, "headers": PLAIN},
    "JSON": {"data": JSON, "headers": {"Content-Type": TYPE}},
    "data URI as the body": {"data": URI, "headers": {**PLAIN, **NONE}},
    "data URI as a body of no type": {"data": URI.encode(), "headers": NONE},
    "base64 as the body": {"data": TEXT, "headers": {**PLAIN, **NONE}},
    "base64 in a form": {"files": {"data": (None, TEXT)}, "data": FORM},
    "data URI in a form": {"files": {"image": (None, URI)}, "data": FORM},
    "a text file in a form": {"files": {"data": ("a.txt", TEXT, "text/plain")}, "data": FORM},
    "base64 in a urlencoded form": {"data": {"data": TEXT, **FORM}},
    "base64 in a urlencoded form, not escaped": {
        "data": f"data={TEXT}&maps=none&top_k=1",
        "headers": {"Content-Type": "application/x-www-form-urlencoded"},
    },
}


@pytest.mark.parametrize("name", REQUESTS)
def test_the_picture_is_read_in_every_form(client, name):
    answer = client.post(**REQUESTS[name])
    assert answer.status_code == 200, answer.text[:300]
    said = answer.json()
    assert [one["label"] for one in said["predictions"]] == ["star"]
    assert said["explanations"] == []
    assert said["image"]["bytes"] == len(PICTURE)


@pytest.mark.parametrize("headers", [{"Content-Encoding": "gzip"}, {"Content-Type": "image/jpeg"}])
def test_a_bomb_of_gzip_is_too_large(client, headers):
    answer = client.post(data=gzip.compress(bytes(20 * MOST_UNPACKED)), headers=headers)
    assert error_of(answer, 413).startswith(f"the gzip body unpacks to more than {MOST_UNPACKED} bytes")


def test_what_comes_in_another_way_is_told(client):
    packed = {"Content-Encoding": "gzip", "Content-Type": "multipart/form-data; boundary=x"}
    form = b'--x\r\nContent-Disposition: form-data; name="data"\r\n\r\nabc\r\n--x--\r\n'
    answer = client.post(data=gzip.compress(form), headers=packed)
    if client.front == "torchserve":
        assert "valid is gzip, and not of a form" in error_of(answer, 400)
    else:  # which unpacks the form
        assert "the first bytes are 61 62 63" in error_of(answer, 415)
    answer = client.post(data=b"x", headers={"Content-Encoding": "br"})
    assert "Content-Encoding 'br' of this body cannot be read" in error_of(answer, 400)


def test_what_is_repeated_is_refused_where_the_server_shows_it(client):
    twice = '{"image": "", "target": 1, "target": 2}'
    assert "'target' is there twice" in error_of(client.post(data=twice, headers=PLAIN), 400)
    answer = client.post(files={"data": PICTURE}, data={"target": "1", "Target": "2"})
    assert "'target' is there twice" in error_of(answer, 400)
    headers = {"X-Explain-Target": "1", "x-explain-TARGET": "2"}
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(client.address).netloc, timeout=60)
    connection.putrequest("POST", urllib.parse.urlsplit(client.address).path)
    for name, value in {**headers, "Content-Type": "image/jpeg", "Content-Length": str(len(PICTURE))}.items():
        connection.putheader(name, value)
    connection.endheaders(PICTURE)
    answer = connection.getresponse()
    assert (answer.status, "twice" in answer.read().decode()) == (400, True)
    connection.close()


def test_the_last_of_equal_names_is_all_that_torchserve_hands_over_and_the_other_front_refuses_them(client):
    twice = f'{{"image": "{TEXT}", "maps": "none", "top_k": 1, "top_k": 2}}'
    in_json = client.post(data=twice, headers={"Content-Type": TYPE})
    parts = client.post(files=[("data", b"none"), ("data", PICTURE)], data=FORM)
    fields = client.post(files={"data": PICTURE}, data={"maps": ["all", "none"]})
    if client.front == "torchserve":
        assert len(in_json.json()["predictions"]) == 2
        assert [one.status_code for one in (parts, fields)] == [200, 200]
        assert fields.json()["explanations"] == []
    else:
        for answer, name in ((in_json, "top_k"), (parts, "data"), (fields, "maps")):
            assert f"{name!r} is there twice" in error_of(answer, 400)


def test_a_header_is_utf_8(client):
    for label in ("кошка", "猫 虎"):
        answer = client.post(data=PICTURE, headers={"X-Explain-Target": label.encode()})
        assert error_of(answer, 400).startswith(f"target '{label}' is no label of this model")


def test_avif_is_read(client):
    with Image.open(ONE) as image:
        data = encoded(image, "AVIF", quality=90)
    said = client.post(data=data, headers={"Content-Type": "image/avif", **NONE}).json()
    assert [one["label"] for one in said["predictions"]] == ["star"]
    assert said["image"]["bytes"] == len(data)


def test_a_heic_picture_is_refused_by_what_reads_it(client):
    answer = client.post(data=b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", headers={"Content-Type": "image/heic"})
    assert "HEIF needs the package pillow-heif" in error_of(answer, 415) or "HEIF" in FORMATS
