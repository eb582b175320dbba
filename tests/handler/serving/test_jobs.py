from dataclasses import dataclass

import numpy as np
import pytest

from handler.errors import BadRequest, TooLarge
from handler.explanation.class_weights import Mixture
from handler.explanation.evidence import TOP, Needs
from handler.explanation.trust import PASSES
from handler.picture.preprocess import preprocess
from handler.protocol.answer import JSON, NPZ, PNG
from handler.protocol.options import Options, parse_options
from handler.protocol.receipt import hash_image
from handler.protocol.request import parse_row
from handler.protocol.row import Row
from handler.rendering.render import encode_png
from handler.serving.jobs import in_passes, job_of, pairs_at_once, prepare
from handler.serving.settings import Settings
from tests.support.engines import CARD, picture, text_of


@dataclass(frozen=True)
class Wanted:
    name: str
    needs: Needs
    targets: list[int]


def passes(*jobs):
    return [[job.name for job in one] for one in in_passes(jobs)]


CAM, GUIDED = Needs(layers=("c",)), Needs(guided=True)


@pytest.mark.parametrize("size", ["layer", "input", "image"])
def test_a_job_without_a_request_is_drawn_on_the_upload_only_at_its_size(size):
    upload = np.zeros((9, 12, 3), np.uint8)
    seen, image_hash, options = preprocess(upload, CARD.preprocessing), hash_image(b"bytes"), Options(size=size)
    job = job_of(options, CARD, seen, image_hash, upload)
    assert job.canvas.upload is (upload if size == "image" else None)
    assert (job.canvas.seen, job.canvas.options, job.image_hash) == (seen, CARD.resolved(options), image_hash)
    assert (job.targets, job.maps) == ([Mixture(target=TOP)], CARD.map_names(options))
    assert job.needs == Needs(layers=("c",), guided=True)


def prepared(fields, settings=None, **said):
    return prepare(parse_row(Row(fields=fields, **said), Options()), CARD, settings or Settings())


@pytest.mark.parametrize(
    ("size", "maps", "accept", "on_upload"),
    [
        ("image", "gradcam", "", True),
        ("image", "none", "", False),
        ("image", "gradcam", PNG, False),
        ("input", "gradcam", "", False),
        ("layer", "gradcam", "", False),
    ],
)
def test_a_picture_is_kept_only_where_maps_are_drawn_on_it(size, maps, accept, on_upload):
    data = encode_png(np.full((9, 12, 3), 50, np.uint8))
    (job,) = prepared({"data": data, "size": size, "maps": maps, "target": "1,0"}, accept=accept)
    assert (job.canvas.upload is not None) == on_upload
    assert job.canvas.seen.crop.image == (9, 12)
    size = "input" if accept == PNG else size
    assert job.canvas.options == Options(size=size, maps=job.maps, target=("1,0",), method="gradcam")
    assert ([mixture.target for mixture in job.targets], job.maps) == ([1, 0], () if maps == "none" else (maps,))
    assert job.needs == Needs(layers=("c",) if job.maps else ())
    assert (job.image_hash, job.place, job.form) == (hash_image(data), "", accept or JSON)


@pytest.mark.parametrize(
    ("said", "resolved"),
    [
        ({}, {"maps": ["gradcam", "guided_backprop", "guided_gradcam"], "layer": ["c"]}),
        ({"maps": "none", "target": "1"}, {"maps": "none"}),
        ({"maps": "saliency", "seed": 7, "smooth": "eigen"}, {"maps": ["saliency"], "seed": 7, "smooth": ["eigen"]}),
        ({"maps": "gradcam", "size": "layer"}, {"maps": ["gradcam"], "layer": ["c"], "size": "layer"}),
        ({"maps": "gradcam", "size": "image", "top_k": 1, "overlay": "0.2"}, {"maps": ["gradcam"], "layer": ["c"]}),
        ({"maps": "gradcam", "method": "rise"}, {"maps": ["gradcam"], "method": "rise", "passes": 256}),
    ],
    ids=str,
)
def test_the_resolved_options_are_those_of_a_request_for_the_same_maps(said, resolved):
    (job,) = prepared({"data": encode_png(np.full((9, 12, 3), 50, np.uint8)), **said})
    usual = {"method": "gradcam", "seed": 0, "contrast": "none", "smooth": "none", "size": "input"}
    assert job.resolved == {**usual, **resolved}
    again = job_of(parse_options(job.resolved, Options()), CARD, job.canvas.seen, job.image_hash)
    assert (again.maps, again.needs, again.passes, again.resolved) == (job.maps, job.needs, job.passes, job.resolved)


def test_a_sheet_shows_maps_at_the_inputs_size_and_its_receipt_says_so():
    (job,) = prepared({"data": encode_png(np.full((9, 12, 3), 50, np.uint8)), "size": "layer"}, accept=PNG)
    assert job.resolved["size"] == "input"


@dataclass(frozen=True, kw_only=True)
class MoreOptions(Options):
    another: tuple[str, ...] = ("a", "b")


def test_a_new_option_is_in_the_receipt_by_itself():
    seen = preprocess(np.zeros((8, 8, 3), np.uint8), CARD.preprocessing)
    assert job_of(MoreOptions(), CARD, seen, hash_image(b"")).resolved["another"] == ["a", "b"]


def test_each_picture_of_a_request_has_its_place():
    jobs = prepared({"body": {"instances": [text_of(50), {"image": text_of(60), "maps": "none"}]}})
    assert [job.place for job in jobs] == ["instances[0]", "instances[1]"]
    assert [job.canvas.seen.picture.max() for job in jobs] == [50, 60]


@pytest.mark.parametrize(
    ("fields", "said", "kind", "message"),
    [
        (
            {"data": picture(50), "maps": "none"},
            {"accept": PNG},
            BadRequest,
            "image/png shows maps and maps is none, valid is Accept: application/json",
        ),
        ({"data": picture(50), "top_k": "3"}, {}, BadRequest, "top_k 3 is not valid, valid are 1 to 2"),
        (
            {"body": {"instances": [text_of(50), {"image": text_of(50), "target": 2}]}},
            {},
            BadRequest,
            "instances[1]: target 2 is not a class index, valid are 0 to 1",
        ),
        (
            {"body": {"instances": [text_of(50), text_of(50)]}},
            {},
            TooLarge,
            "instances[1]: the request's pictures have 128 pixels together, valid are at most 127; "
            "send them in several requests",
        ),
    ],
    ids=["sheet", "top_k", "target", "pixels"],
)
def test_the_first_error_refuses_the_request(fields, said, kind, message):
    with pytest.raises(kind) as refused:
        prepared(fields, Settings(max_pixels=127), **said)
    assert str(refused.value) == message


def test_one_picture_may_have_as_many_pixels_as_a_request():
    assert len(prepared({"data": picture(50)}, Settings(max_pixels=64))) == 1
    with pytest.raises(TooLarge, match="8x8 = 64 pixels, valid are at most 63"):
        prepared({"data": picture(50)}, Settings(max_pixels=63))


def test_jobs_go_with_those_of_equal_needs_in_their_order():
    jobs = [Wanted("a", CAM, [0]), Wanted("b", GUIDED, [0]), Wanted("c", CAM, [1]), Wanted("d", Needs(), [0])]
    assert passes(*jobs) == [["a", "c"], ["b"], ["d"]]


def test_a_pass_is_closed_before_it_gets_too_large():
    jobs = [Wanted(str(number), CAM, [0] * 10) for number in range(3)] + [Wanted("small", CAM, [0] * 6)]
    assert passes(*jobs) == [["0"], ["1"], ["2", "small"]]
    assert [len(one) for one in passes(*(Wanted("x", Needs(), [0]) for _ in range(33)))] == [16, 16, 1]


def test_a_job_of_any_size_has_a_pass():
    assert passes(Wanted("large", CAM, [0] * 100), Wanted("next", CAM, [0])) == [["large"], ["next"]]
    assert passes() == []


def test_several_layers_make_a_pass_smaller():
    assert [pairs_at_once(Needs(layers=tuple(map(str, range(count))))) for count in (0, 1, 3, 8, 99)] == [
        16,
        16,
        5,
        2,
        1,
    ]
    three = Needs(layers=("a", "b", "c"))
    assert passes(*(Wanted(str(number), three, [0, 1]) for number in range(3))) == [["0", "1"], ["2"]]


def test_without_a_request_the_upload_is_kept_where_it_is_wanted():
    pixels = np.zeros((8, 8, 3), np.uint8)
    for size in ("image", "input"):
        job = job_of(Options(size=size), CARD, preprocess(pixels, CARD.preprocessing), hash_image(b""), pixels)
        assert (job.canvas.upload is pixels) == (size == "image")


@pytest.mark.parametrize(
    ("said", "accept", "tested"),
    [
        ({"trust": "true"}, "", True),
        ({"trust": "false"}, "", False),
        ({"trust": "true", "maps": "none"}, "", False),
        ({"trust": "true"}, PNG, False),
        ({"trust": "true"}, NPZ, False),
    ],
)
def test_maps_are_tested_where_there_are_maps_and_a_place_for_what_the_test_says(said, accept, tested):
    fields = {"data": picture(50), "maps": "gradcam", "target": "light,dark", **said}
    (job,) = prepared(fields, accept=accept)
    assert job.canvas.options.trust == tested
    settings = Settings(max_passes=2 * PASSES - 1)
    if tested:
        with pytest.raises(TooLarge, match=f"{2 * PASSES} masked pictures or more, valid are at most {2 * PASSES - 1}"):
            prepared(fields, settings, accept=accept)
    else:
        assert prepared(fields, settings, accept=accept)


def test_the_passes_of_trust_and_of_the_method_add_up():
    fields = {"data": picture(50), "maps": "gradcam", "method": "rise", "passes": "100", "trust": "true"}
    with pytest.raises(TooLarge, match=f"asks for {100 + PASSES} masked pictures"):
        prepared(fields, Settings(max_passes=99 + PASSES))
    assert prepared(fields, Settings(max_passes=100 + PASSES))
