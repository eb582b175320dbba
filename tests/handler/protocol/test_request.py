import base64
import gzip
import zlib
from pathlib import Path

import pytest

from handler.errors import BadRequest, TooLarge
from handler.protocol.options import Options
from handler.protocol.request import MOST_UNPACKED, accepted, parse_row
from handler.protocol.row import Row

ROOT = Path(__file__).parents[3]
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
        {"body": f' {{"image": "{TEXT}"}}'},
        {"body": f"data:image/png;base64,{TEXT}"},
        {"body": bytearray(f"data:image/png;base64,{TEXT}".encode())},
        {"body": TEXT},
        {"data": TEXT.encode()},
        {"data": bytearray(f"data:image/png;base64,{TEXT}\r\n".encode())},
        {"image": f"data:image/png;base64,{TEXT}"},
        {"body": gzip.compress(PICTURE, mtime=0)},
        {"data": bytearray(gzip.compress(PICTURE, mtime=0))},
        {"data": gzip.compress(TEXT.encode(), mtime=0)},
        {"body": gzip.compress(b'{"image": "' + TEXT.encode() + b'"}', mtime=0)},
    ],
)
def test_the_picture_is_found_in_every_form(row):
    assert parse(row).asked[0].image == PICTURE


def test_fields_go_before_what_is_said_beside_them():
    request = parse({"data": PICTURE, "size": b"layer"}, options={"top_k": "3", "Size": "image"})
    assert request.asked[0].options.top_k == 3
    assert request.asked[0].options.size == "layer"


def test_headers_that_name_an_option_twice_are_refused_and_a_field_goes_before_a_header():
    with pytest.raises(BadRequest, match="'top_k' is there twice"):
        parse({"data": PICTURE}, options={"top-k": "3", "TOP_K": "4"})
    assert parse({"data": PICTURE, "Top_K": b"5"}, options={"top-k": "3"}).asked[0].options.top_k == 5
    assert parse({"data": PICTURE, "size": b"layer"}, options={"Size": "huge"}).asked[0].options.size == "layer"


def test_a_plus_of_base64_in_a_urlencoded_form_is_no_blank():
    picture = bytes([0xFB, 0xEF, 0xBE] * 8)  # all of its base64 are pluses
    (asked,) = parse({"data": b" " * 32}, content_type="application/x-www-form-urlencoded").asked
    assert asked.image == picture
    assert parse({"data": base64.b64encode(picture)}).asked[0].image == picture


def test_a_body_unpacks_to_as_much_as_may_come_unpacked_and_no_more():
    (limit,) = [line for line in (ROOT / "config.properties").read_text().splitlines() if "max_request_size=" in line]
    assert limit == f"max_request_size={MOST_UNPACKED}"
    assert len(parse({"body": gzip.compress(bytes(MOST_UNPACKED), mtime=0)}).asked[0].image) == MOST_UNPACKED
    for field in ("body", "data", "image"):
        with pytest.raises(TooLarge, match=f"more than {MOST_UNPACKED} bytes"):
            parse({field: gzip.compress(bytes(MOST_UNPACKED + 1), mtime=0)})


def test_no_more_is_unpacked_than_tells_that_it_is_too_much(monkeypatch):
    given = []

    class Stream:
        def decompress(self, data, max_length):
            given.append(max_length)
            return bytes(max_length)

    monkeypatch.setattr(zlib, "decompressobj", lambda **_: Stream())
    with pytest.raises(TooLarge):
        parse({"body": gzip.compress(b"", mtime=0)})
    assert given == [MOST_UNPACKED + 1]


def test_options_are_never_unpacked(monkeypatch):
    monkeypatch.setattr(zlib, "decompressobj", lambda **_: pytest.fail("an option was unpacked"))
    with pytest.raises(BadRequest, match="option target is not valid UTF-8"):
        parse({"data": PICTURE, "target": gzip.compress(bytes(9), mtime=0)})


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, gzip", "zstd"])
def test_an_encoding_that_is_not_understood_is_named(encoding):
    with pytest.raises(BadRequest, match=rf"^Content-Encoding '{encoding}' of this body cannot be read, valid is gzip"):
        parse({"body": PICTURE}, encoding=encoding)


def test_a_packed_form_is_refused_for_it_because_the_server_finds_no_parts():
    with pytest.raises(
        BadRequest, match="Content-Encoding 'gzip' of this body cannot be read, valid is .* not of a form"
    ):
        parse({}, encoding="GZIP", content_type="multipart/form-data; boundary=x")
    assert parse({"body": gzip.compress(PICTURE, mtime=0)}, encoding="gzip").asked[0].image == PICTURE
    assert parse({"body": PICTURE}, encoding="identity").asked[0].image == PICTURE


@pytest.mark.parametrize("body", [None, 5, [1], True])
def test_json_that_is_no_object_is_refused(body):
    with pytest.raises(BadRequest, match="must be an object"):
        parse({"body": body})


FORMS = (
    "; post the picture with curl -F data=@cat.jpg, with curl -T cat.jpg, "
    'or as JSON {"image": "<base64>", "target": "tabby"}'
)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"body": [1]}, f"a JSON request must be an object with the picture in base64 under image{FORMS}"),
        ({}, f"one picture is needed under one of data, body, image, but there is none{FORMS}"),
        ({"data": b""}, f"the picture is empty{FORMS}"),
        ({"body": {"image": ""}}, f"the picture is empty{FORMS}"),
        ({"body": {"image": 5}}, f"image must hold a picture or its base64 text{FORMS}"),
        ({"body": {"image": {"b64": "", "more": 1}}}, f"image must hold a picture or its base64 text{FORMS}"),
        ({"body": {"image": {"b64": {"b64": ""}}}}, f"image must hold a picture or its base64 text{FORMS}"),
        ({"body": b'{"image": '}, "malformed JSON: Expecting value: line 1 column 11 (char 10)"),
        ({"body": b'{"image": "\xff"}'}, "malformed JSON: 'utf-8' codec can't decode byte 0xff in position 11"),
        ({"body": b'{"image": ' + b"[" * 100_000}, "malformed JSON: nested too deeply"),
        ({"data": b"data:image/png;base64,%"}, "the picture is text and not valid base64 ("),
        (
            {"body": b'{"image": "", "target": 1, "target": 2}'},
            "malformed JSON: 'target' is there twice, valid is once",
        ),
        (
            {"body": '{"instances": [{"image": "", "image": ""}]}'},
            "malformed JSON: 'image' is there twice, valid is once",
        ),
        ({"data": PICTURE, "top_k": b"1", "Top-K": b"2"}, "'top_k' is there twice, valid is once"),
        ({"body": gzip.compress(PICTURE, mtime=0)[:-9]}, "the gzip body is truncated or has further parts and cannot"),
        ({"body": gzip.compress(PICTURE, mtime=0) * 2}, "the gzip body is truncated or has further parts and cannot"),
        ({"data": b"\x1f\x8b\x08junk that is none"}, "the gzip body is corrupt and cannot be unpacked"),
        ({"data": "§"}, "the picture is text and not valid base64 ("),
        ({"data": f"image/png;base64,{TEXT}"}, "the picture is text and not valid base64 ("),
        ({"data": "data:;"}, "the picture is text and not valid base64 ("),
    ],
    ids=str,
)
def test_what_holds_no_picture_is_refused_by_what_does(fields, said):
    with pytest.raises(BadRequest) as refused:
        parse(fields)
    assert str(refused.value).startswith(said)


@pytest.mark.parametrize(
    ("body", "content_type", "json"),
    [
        (b"[1]", "application/JSON; charset=utf-8", True),
        (b"[1]", "image/png", False),
        (b"{", "image/png", True),
        (b" " * 63 + b"{", "", True),
        (b" " * 64 + b"{", "", False),
    ],
)
def test_a_body_is_json_if_it_says_so_or_begins_so(body, content_type, json):
    if json:
        with pytest.raises(BadRequest, match="JSON"):
            parse({"body": body}, content_type=content_type)
    else:
        assert parse({"body": body}, content_type=content_type).asked[0].image == body


@pytest.mark.parametrize(("text", "read"), [("hello", b"hello"), ("f\ud800", b"f?")])
def test_a_body_that_was_read_as_text_is_refused_as_a_picture_later(text, read):
    (asked,) = parse({"body": text}).asked
    assert (asked.image, asked.place, asked.options) == (read, "", Options())


@pytest.mark.parametrize("text", [TEXT[:4] + "!" + TEXT[4:], TEXT[:-1], "§", TEXT + "=="])
def test_text_that_is_not_all_base64_is_refused(text):
    with pytest.raises(BadRequest, match="not valid base64"):
        parse({"image": text})


def test_a_body_is_json_where_its_type_says_so_or_it_begins_like_an_object():
    for body in (b"[1, 2]", b"7"):
        with pytest.raises(BadRequest, match="must be an object"):
            parse({"body": body}, content_type="application/JSON; charset=utf-8")
        assert parse({"body": body}).asked[0].image == body
    for body in (b"{", b"\xff", b""):
        with pytest.raises(BadRequest, match="malformed JSON"):
            parse({"body": body}, content_type="application/json")


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
        ("text/html, */*;q=0.8", "text/html"),
        ("image/png;q=oops", "application/json"),
        ("", "application/json"),
        (";;,,", "application/json"),
        ("application/x-npz", "application/x-npz"),
        ("application/x-npz;q=0.2, image/png;q=0.3", "image/png"),
        ("application/*", "application/json"),
        ("application/x-npz;q=0", "application/json"),
    ],
)
def test_accept_chooses_the_form_of_the_answer(header, form):
    assert accepted(header) == form
