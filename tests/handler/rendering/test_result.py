"""A result as it is drawn, saved and sent: two targets with different maps."""

import base64
import io
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from handler.explanation.maps import MAP_KINDS, scale
from handler.picture.projection import hatched
from handler.protocol.options import Overlay
from handler.protocol.receipt import digest
from handler.rendering.render import draw_map, encode_map, encode_png
from handler.rendering.result import Explanation, Prediction, Result, Target, observe_result
from handler.rendering.sheet import Panel, sheet
from tests.support.drawing import SEEN, canvas, heat, pixels

MODEL = {"name": "m", "version": "2", "architecture": "tiny", "engine": "torch"}
DARK = Target(index=0, label="dark", logit=1.5, probability=0.75)
LIGHT = Target(index=1, label="light & bright", logit=0.4, probability=0.25)
IMAGE = {"sha256": "ab" * 32, "bytes": 99}
STAGES = {"decode": 1.234, "infer": 2.0, "explain": 0.0, "render": 3.456}
MAPS = {  # by target
    "dark": {"saliency": pixels(1, 1), "gradcam": heat(0, 2)},
    "light & bright": {"saliency": pixels(2, 0, (-1, 0, 1)), "gradcam": heat(3, 1)},
}


def result(explanations=None, **options) -> Result:
    if explanations is None:
        explanations = [
            Explanation(target=one, method="gradcam", layers=("conv",), maps=MAPS[one.label]) for one in (DARK, LIGHT)
        ]
    return Result(
        model=MODEL,
        logits=np.float32([1.5, 0.4]),
        predictions=[Prediction(0, "dark", 0.75), Prediction(1, "light & bright", 0.25)],
        explanations=explanations,
        canvas=canvas(**options),
        provenance={"image": IMAGE, "options": {"seed": 5}},
        timings_ms=STAGES,
    )


PHOTO = Panel(picture=SEEN, title="picture", note="what the network saw")


def expected_panel(name, one, looks=None, **said):
    """The panel of a map as the sheet should have it."""
    return Panel(picture=draw_map(name, one, looks or canvas()), **said)


def evidence(one, looks=None, **said):
    known = {"title": "Grad-CAM", "note": "evidence at conv", "ends": ("0", "2.5"), "colormap": "jet"}
    return expected_panel("gradcam", one, looks, **{**known, **said})


def detail(one, **said):
    known = {"title": "saliency", "note": "detail, not evidence", "ends": ("grey is 0", "largest 1")}
    return expected_panel("saliency", one, **{**known, **said})


def heading(text):
    return lambda fits: text


def explain(maps, **known):
    return Explanation(**{"target": DARK, "method": "gradcam", "layers": ("conv",), "maps": maps, **known})


@pytest.mark.parametrize("size", ["input", "image"])
def test_the_sheet_has_each_targets_own_heading_and_maps_at_the_size_that_was_seen(size):
    rows = [
        (heading(said), [PHOTO, evidence(MAPS[target.label]["gradcam"]), detail(MAPS[target.label]["saliency"])])
        for target, said in ((DARK, "dark 0.75"), (LIGHT, "light & bright 0.25"))
    ]
    drawn = result(size=size).sheet()
    np.testing.assert_array_equal(drawn, sheet(rows))
    first, second = np.split(drawn, 2)
    assert (first[:26] != second[:26]).any(), "the headings differ"


def test_a_label_is_cut_until_the_heading_fits_and_its_probability_never_is():
    names = Target(index=0, label="lemon, " * 30, logit=1.5, probability=0.75)
    explained = Explanation(target=names, contrast=DARK, against=True, method=None, layers=(), maps={})
    wide, narrow, narrowest = (explained.title(lambda text, most=most: len(text) <= most) for most in (80, 60, 2))
    assert re.fullmatch(r"against (lemon, ){3,20}[lemon, ]{0,7}\.\.\. 0\.75, not dark 0\.75", wide)
    assert (len(narrowest), len(narrow), len(wide)) == (36, 60, 80)
    assert narrowest == "against lemon... 0.75, not dark 0.75"
    assert explained.title(lambda _: True) == f"against {'lemon, ' * 30} 0.75, not dark 0.75"


def test_the_sheet_names_the_method_and_says_where_it_does_not_depend_on_the_class():
    made = {"gradcam": heat(1, 1), "guided_gradcam": pixels(2, 2), "saliency": pixels(1, 1)}
    explained = explain(made, method="fem")
    panels = [
        PHOTO,
        evidence(made["gradcam"], title="FEM", note="what stands out at conv"),
        expected_panel(
            "guided_gradcam",
            made["guided_gradcam"],
            title="guided FEM",
            note="what stands out times detail",
            ends=("grey is 0", "largest 1"),
        ),
        detail(made["saliency"]),
    ]
    np.testing.assert_array_equal(result([explained]).sheet(), sheet([(heading("dark 0.75"), panels)]))


@pytest.mark.parametrize(
    ("layers", "note"),
    [
        ((), "evidence"),
        (("stage4.3",), "evidence at stage4.3"),
        (("a", "b", "c"), "evidence, mean of 3 layers"),
        (("swinv2.encoder.layers.3.blocks.1.layernorm_after",), "evidence at ...ayers.3.blocks.1.layernorm_after"),
    ],
)
def test_the_sheet_names_the_layer(layers, note):
    explained = explain({"gradcam": heat(1, 1)}, layers=layers)
    assert explained.note("gradcam") == note
    assert explained.note("guided_gradcam") == "evidence times detail"
    assert explained.note("guided_backprop") == explained.note("saliency") == "detail, not evidence"


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ((0.0, 0.48291), ("0", "0.483")),
        ((-1.5, 1234.5), ("-1.5", "1.23e+03")),
        (([0.0, 0.0], [2.0, 0.25]), ("0", "0.25 to 2")),
        (([0.5, 0.125, 0.25], [3.0, 3.0, 3.0]), ("0.125 to 0.5", "3")),
    ],
)
def test_the_colour_bar_has_the_unscaled_ends_of_the_map(ends, said):
    one = replace(heat(1, 1), minimum=ends[0], maximum=ends[1])
    looks = canvas(overlay=Overlay(0.4, "viridis"))
    expected = [PHOTO, evidence(one, looks, ends=said, colormap="viridis")]
    drawn = result([explain({"gradcam": one})], overlay=Overlay(0.4, "viridis")).sheet()
    np.testing.assert_array_equal(drawn, sheet([(heading("dark 0.75"), expected)]))


@pytest.mark.parametrize(
    ("name", "layers", "stamp"),
    [
        ("gradcam", ("conv",), "no evidence at this layer"),
        ("gradcam", (), "no evidence"),
        ("guided_gradcam", ("conv",), "no evidence at this layer"),
        ("saliency", (), "no detail"),
    ],
)
def test_a_degenerate_map_is_no_heat_map_but_hatched_and_says_so(name, layers, stamp):
    one = replace(heat(1, 1) if name == "gradcam" else pixels(1, 1), degenerate=True)
    explained = explain({name: one}, layers=layers)
    kind = MAP_KINDS[name]
    expected = Panel(picture=hatched(SEEN), title=kind.title, note=explained.note(name), stamp=stamp)
    drawn = result([explained]).sheet()
    np.testing.assert_array_equal(drawn, sheet([(heading("dark 0.75"), [PHOTO, expected])]))
    right = drawn[:, drawn.shape[1] // 2 + 8 :].astype(int)
    assert np.ptp(right, axis=2).max() == 0, "no colour speaks of evidence"


def test_a_map_of_few_cells_is_enlarged_and_scaled_again_on_the_sheet():
    explained = explain({"gradcam": heat(1, 1, side=3)})
    middle = np.zeros((4, 4), np.float32)
    middle[1:3, 1:3] = 0.625**2  # half-pixel centres: 3/8 of a cell from the middle one's
    enlarged = replace(heat(0, 0), values=scale(middle))
    expected = sheet([(heading("dark 0.75"), [PHOTO, evidence(enlarged)])])
    np.testing.assert_array_equal(result([explained], size="layer").sheet(), expected)


def test_a_map_is_drawn_by_target_and_name():
    np.testing.assert_array_equal(result().draw(), draw_map("gradcam", MAPS["dark"]["gradcam"], canvas()))
    expected = draw_map("saliency", MAPS["light & bright"]["saliency"], canvas())
    np.testing.assert_array_equal(result().draw(1, "saliency"), expected)


def test_a_saved_file_holds_the_map_that_its_name_says(tmp_path):
    files = result().save(tmp_path / "out")
    assert [path.name for path in files] == [
        "sheet.png",
        *("0_saliency.png", "0_gradcam.png", "1_saliency.png", "1_gradcam.png"),
    ]
    for path in files[1:]:
        index, name = path.stem.split("_")
        expected = draw_map(name, MAPS[(DARK, LIGHT)[int(index)].label][name], canvas())
        np.testing.assert_array_equal(np.asarray(Image.open(path)), expected, err_msg=path.name)
        assert path.read_bytes() == encode_png(expected, smooth=name == "gradcam")
    np.testing.assert_array_equal(np.asarray(Image.open(files[0])), result().sheet())


def test_a_file_that_is_there_keeps_all_files_from_being_written(tmp_path):
    (tmp_path / "1_gradcam.png").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"1_gradcam\.png is there already"):
        result().save(tmp_path)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"mine"]
    assert len(result().save(tmp_path, overwrite=True)) == 5
    assert Image.open(io.BytesIO((tmp_path / "1_gradcam.png").read_bytes())).format == "PNG"


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize(
    ("layers", "said"), [((), None), (("conv",), "conv"), (("conv", "last"), ["conv", "last"])], ids=str
)
def test_the_json_answer_is_the_results_own(layers, said, threads):
    maps = MAPS["dark"]
    explained = Explanation(target=DARK, method="gradcam" if layers else None, layers=layers, maps=maps)
    painters = ThreadPoolExecutor(threads) if threads else None
    assert result([explained]).to_dict(painters) == {
        "model": MODEL,
        "predictions": [
            {"index": 0, "label": "dark", "probability": 0.75},
            {"index": 1, "label": "light & bright", "probability": 0.25},
        ],
        "explanations": [
            {
                "target": {"index": 0, "label": "dark", "logit": 1.5, "probability": 0.75},
                "method": "gradcam" if layers else None,
                "layer": said,
                "maps": {name: encode_map(name, one, canvas()) for name, one in maps.items()},
            }
        ],
        "image": IMAGE,
        "receipt": result([explained]).receipt(),
        "view": {"image": [4, 8], "crop": [0.0, 3.0, 4.0, 7.0]},
        "timings_ms": {"decode": 1.23, "infer": 2.0, "explain": 0.0, "render": 3.46},
    }


def test_the_receipt_has_the_targets_that_were_explained_and_a_digest_of_each_array():
    assert result().receipt() == {
        "image": IMAGE,
        "options": {"seed": 5, "target": [0, 1]},
        "prediction": {"index": 0, "label": "dark"},
        "scores": digest(result().logits),
        "maps": [{name: digest(one.values) for name, one in MAPS[target.label].items()} for target in (DARK, LIGHT)],
    }
    assert result([]).receipt()["options"] == {"seed": 5}
    assert result([]).receipt()["maps"] == []


def test_a_signed_receipt_is_sent_as_it_is():
    signed = {"signature": "abc"}
    assert result().to_dict(receipt=signed)["receipt"] == signed
    assert json.loads(np.load(io.BytesIO(result().to_npz(signed)))["receipt"].item()) == signed
    assert json.loads(np.load(io.BytesIO(result().to_npz()))["receipt"].item()) == result().receipt()


def test_a_notebook_shows_labels_as_text_and_the_sheet():
    assert "light &amp; bright 0.250" in result()._repr_html_()
    assert base64.b64encode(encode_png(result().sheet())).decode() in result()._repr_html_()
    assert result([])._repr_html_() == "<p>dark 0.750<br>light &amp; bright 0.250</p>"


@pytest.mark.parametrize(
    ("maps", "method", "told"),
    [
        (None, None, "none"),
        ({"saliency": pixels(0, 0)}, None, "gradient"),
        ({"gradcam": heat(0, 0)}, "gradcam", "gradcam"),
    ],
    ids=["prediction", "gradient", "map"],
)
def test_what_is_observed_of_a_result(maps, method, told):
    without = {name: replace(one, degenerate=True) for name, one in (maps or {}).items()}
    explained = [Explanation(target=DARK, method=method, layers=(), maps=its) for its in (maps, without, maps) if its]
    found = observe_result(result(explained), STAGES)
    assert found.labels == {"engine": "torch", "method": told}
    assert found.pixels == 32  # the upload's, not the crop's
    assert (found.maps, found.targets, found.degenerate) == (tuple(maps or ()), len(explained), bool(maps))
    assert (found.map_count, found.stages_ms) == (len(explained), STAGES)


def test_arrays_are_those_of_the_result_and_their_bytes_are_the_same_each_time():
    found = np.load(io.BytesIO(result().to_npz()))
    assert set(found) == {"logits", "probabilities", "targets", "receipt", *MAPS["dark"]}
    np.testing.assert_array_equal(found["logits"], result().logits)
    np.testing.assert_array_equal(found["targets"], [0, 1])
    for name in MAPS["dark"]:
        for values, explanation in zip(found[name], result().explanations, strict=True):
            np.testing.assert_array_equal(values, explanation.maps[name].values)
    assert result().to_npz() == result().to_npz()


def test_arrays_of_a_prediction_alone_have_no_maps():
    found = np.load(io.BytesIO(replace(result(), explanations=[]).to_npz()))
    assert set(found) == {"logits", "probabilities", "targets", "receipt"}
    assert found["targets"].shape == (0,)
