import base64

import pytest

from handler.errors import BadRequest
from handler.protocol.options import Options
from handler.protocol.request import accepted, parse_row
from handler.protocol.row import Row

PICTURE = b"\x89PNG..."
TEXT = base64.b64encode(PICTURE).decode()


def parse(fields, **said):
    return parse_row(Row(fields=fields, **said), Options())


@pytest.mark.parametrize(
    "row",
    [
        {"data": bytearray(PICTURE)},
        {"image": PICTURE},
        {"body": bytearray(PICTURE)},
        {"body": {"image": TEXT}},
        {"body": {"data": TEXT[:4] + "\n" + TEXT[4:]}},
        {"body": {"image": {"b64": TEXT}}},
        {"body": {"image": "data:image/png;base64," + TEXT}},
        {"body": b' {"image": "' + TEXT.encode() + b'"}'},
    ],
)
def test_the_picture_is_found_in_every_form(row):
    assert parse(row).asked[0].image == PICTURE


def test_fields_go_before_what_is_said_beside_them():
    request = parse({"data": PICTURE, "size": b"layer"}, options={"top_k": "3", "Size": "image"})
    assert request.asked[0].options.top_k == 3
    assert request.asked[0].options.size == "layer"


@pytest.mark.parametrize("body", [None, 5, [1], True])
def test_json_that_is_no_object_is_refused(body):
    with pytest.raises(BadRequest, match="must be an object"):
        parse({"body": body})


def test_no_picture_and_two_pictures_are_refused():
    with pytest.raises(BadRequest, match="there is none"):
        parse({})
    with pytest.raises(BadRequest, match="data, image all hold a picture"):
        parse({"data": PICTURE, "image": PICTURE})


@pytest.mark.parametrize(
    ("header", "form"),
    [
        (None, "application/json"),
        ("*/*", "application/json"),
        ("image/png", "image/png"),
        ("IMAGE/PNG", "image/png"),
        ("image/png, application/json", "application/json"),
        ("application/json;q=0.5, image/png", "image/png"),
        ("image/*, */*;q=0.1", "image/png"),
        ("image/png, */*", "image/png"),
        ("image/*, */*", "image/png"),
        ("image/png;q=0.5, */*", "application/json"),
        ("text/html, */*;q=0.8", "application/json"),
        ("image/png;q=oops", "application/json"),
        ("", "application/json"),
        (";;,,", "application/json"),
    ],
)
def test_accept_chooses_the_form_of_the_answer(header, form):
    assert accepted(header) == form
