"""An answer is computed anew from its receipt, and what differs is named."""

import json
import subprocess
import zlib
from contextlib import suppress

import numpy as np
import pytest

from export.__main__ import main
from handler.client.model import GraphModel
from handler.client.replay import read_receipt, replay
from handler.errors import BadRequest, ModelError, RequestError
from handler.graphs.description import KIND_EXPLANATION, KIND_GRADCAM
from handler.protocol.receipt import digest, is_signed, read_key, sign
from handler.rendering.render import encode_png, png_with
from tests.support.graphs import describe, write_graph

PIXELS = np.random.default_rng(0).integers(0, 255, (6, 6, 3), np.uint8)
PICTURE = encode_png(PIXELS)
MAPS = ("gradcam", "guided_backprop", "guided_gradcam")


@pytest.fixture
def graph(tmp_path):
    return write_graph(tmp_path, describe(KIND_EXPLANATION))


@pytest.fixture
def answer(graph):
    return GraphModel(graph).explain(PICTURE, target=["blue", 0])


def recorded(receipt):
    """The receipt as a client keeps it."""
    return json.loads(json.dumps(receipt))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"target": ["blue", "top", 0], "size": "layer"},
        {"maps": "none", "top_k": 2},
        {"maps": "guided_backprop", "encoding": "list", "size": "image"},
        {"method": "randomcam", "seed": 5, "maps": "gradcam"},
        {"method": "rise", "passes": 4, "seed": 9, "maps": "gradcam"},
        {"method": "scorecam", "passes": 2, "maps": "gradcam"},
        {"method": "xgradcam", "smooth": ["augment", "eigen"]},
        {"target": ["-top", "red", "-red"], "contrast": "blue"},
        {"target": ["red", "blue"], "contrast": "second", "maps": "gradcam"},
    ],
    ids=str,
)
def test_an_answer_is_equal_whatever_was_asked_for(graph, options):
    receipt = recorded(GraphModel(graph).explain(PICTURE, **options).receipt())
    verdicts, changed = replay(GraphModel(graph), receipt, PICTURE)
    assert changed == []
    assert set(verdicts.values()) == {"equal", "equal, the same bytes"}
    assert len([part for part in verdicts if " of class " in part]) == sum(map(len, receipt["maps"]))


def test_a_random_method_with_another_seed_is_another_answer(graph):
    receipt = recorded(GraphModel(graph).explain(PICTURE, method="randomcam", maps="gradcam").receipt())
    target, changed = receipt["options"]["target"][0], []
    for seed in range(1, 9):
        receipt["options"]["seed"] = seed
        changed += replay(GraphModel(graph), receipt, PICTURE)[1]
    assert set(changed) == {f"gradcam of class {target}"}


def test_another_picture_is_named(graph, answer):
    verdicts, changed = replay(GraphModel(graph), recorded(answer.receipt()), encode_png(255 - PIXELS))
    assert changed[0] == "image"
    assert verdicts["image"].startswith("sha256 ")
    assert {"scores", "guided_backprop of class 2", "guided_backprop of class 0"} <= set(changed)


def test_the_same_pixels_in_another_file_are_another_picture_with_the_same_maps(graph, answer):
    again = encode_png(PIXELS, smooth=False) + b"\0"
    assert replay(GraphModel(graph), recorded(answer.receipt()), again)[1] == ["image"]


def test_other_weights_with_the_same_answer_are_named(graph, answer, tmp_path):
    receipt = recorded(answer.receipt())
    write_graph(tmp_path, describe(KIND_EXPLANATION, weights_sha256="f" * 64))
    verdicts, changed = replay(GraphModel(graph), receipt, PICTURE)
    assert changed == ["weights_sha256"]
    assert verdicts["weights_sha256"] == "0" * 23 + " is now " + "f" * 23
    assert verdicts["graphs"].startswith("explanation ")


def test_other_labels_are_another_answer(graph, answer, tmp_path):
    receipt = recorded(answer.receipt())
    write_graph(tmp_path, describe(KIND_EXPLANATION, labels=["rouge", "vert", "bleu"]))
    assert replay(GraphModel(graph), receipt, PICTURE)[1] == ["prediction"]


def test_other_versions_and_engines_are_named_and_are_no_other_answer(graph, answer):
    receipt = recorded(answer.receipt())
    receipt["versions"].update(numpy="1.0", cuda="9")
    receipt["model"]["engine"] = "torch"
    receipt["graphs"] = {}
    verdicts, changed = replay(GraphModel(graph), receipt, PICTURE)
    assert changed == []
    assert verdicts["versions"] == f"numpy 1.0 is now {np.__version__}, cuda 9 is now null"
    assert verdicts["model"] == "engine torch is now onnx"
    assert verdicts["graphs"].startswith("explanation null is now ")


@pytest.mark.parametrize(
    ("apart", "verdict"), [(3e-6, "equal within 0.0001: by"), (1e-3, "differs by more than 0.0001")]
)
def test_what_differs_a_little_is_equal_within_the_tolerance(graph, answer, apart, verdict):
    receipt, values = recorded(answer.receipt()), answer.explanations[0].maps["guided_backprop"].values
    receipt["maps"][0]["guided_backprop"] = digest(values + np.float32(apart * np.abs(values).max()))
    verdicts, changed = replay(GraphModel(graph), receipt, PICTURE)
    assert verdicts["guided_backprop of class 2"].startswith(verdict)
    assert changed == (["guided_backprop of class 2"] if apart > 1e-4 else [])
    assert replay(GraphModel(graph), receipt, PICTURE, 0.01)[1] == []
    assert replay(GraphModel(graph), receipt, PICTURE, 0)[1] == ["guided_backprop of class 2"]


def test_a_zero_of_another_sign_is_equal_and_not_called_the_same_bytes(graph, answer):
    receipt = recorded(answer.receipt())
    receipt["scores"]["sha256"] = "0" * 64
    verdicts, changed = replay(GraphModel(graph), receipt, PICTURE)
    assert verdicts["scores"] == "equal within 0.0001: by 0.0e+00"
    assert changed == []


def test_a_number_that_is_none_is_not_equal(graph, answer):
    receipt = recorded(answer.receipt())
    receipt["scores"] = digest(np.float32([np.nan, 0, 0]))
    assert replay(GraphModel(graph), receipt, PICTURE)[1] == ["scores"]


def test_a_model_that_lacks_what_was_asked_for_is_refused(answer, tmp_path):
    lacking = GraphModel(write_graph(tmp_path, describe(KIND_GRADCAM)))
    with pytest.raises(RequestError, match="guided_backprop: this graph holds gradcam"):
        replay(lacking, recorded(answer.receipt()), PICTURE)


@pytest.mark.parametrize("part", ["options", "scores", "maps", "versions"])
@pytest.mark.parametrize("value", [None, 3, "a", [], {}, {"sketch": "!", "shape": 3}, [{}]], ids=str)
def test_a_receipt_that_is_not_complete_is_refused_or_found_to_differ(graph, answer, part, value):
    receipt = {**recorded(answer.receipt()), part: value}
    with suppress(RequestError):
        verdicts, changed = replay(GraphModel(graph), receipt, PICTURE)
        assert changed or verdicts[part] != "equal"
    del receipt[part]
    with pytest.raises(BadRequest, match=f"^the receipt is not complete: KeyError: '{part}'$"):
        replay(GraphModel(graph), receipt, PICTURE)


def forms_of(result):
    receipt = result.receipt()
    return {
        "receipt": json.dumps(receipt).encode(),
        "answer": json.dumps(result.to_dict()).encode(),
        "sheet": png_with(encode_png(result.sheet()), receipt),
        "arrays": result.to_npz(),
    }


@pytest.mark.parametrize("form", ["receipt", "answer", "sheet", "arrays"])
def test_a_receipt_is_found_in_every_form_of_an_answer(answer, form):
    assert read_receipt(forms_of(answer)[form]) == recorded(answer.receipt())


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"abc", b"[]", b"3", b"null", b"{}", b"\xff\xd8\xff", b'{"receipt": 3}', b'{"receipt": [[]]}'),
        *(b"PK", b"PK\x03\x04abc", b"\x89PNG", encode_png(PIXELS), b"[" * 9999, b'{"format": 1e999}'),
    ],
    ids=lambda content: repr(content[:12]),
)
def test_what_holds_no_receipt_is_refused_in_one_line(content):
    with pytest.raises(BadRequest, match="^the receipt cannot be read .*, valid are a receipt and a picture's [^\n]*$"):
        read_receipt(content)


def test_a_receipt_of_another_format_is_refused(answer):
    with pytest.raises(BadRequest, match="its format is 2, valid is 1"):
        read_receipt(json.dumps({**answer.receipt(), "format": 2}).encode())


def test_a_sheet_with_a_receipt_is_still_the_same_picture_for_every_decoder(answer):
    png = encode_png(answer.sheet())
    found, place = png_with(png, answer.receipt()), 33
    length = int.from_bytes(found[place : place + 4], "big")
    chunk, check = found[place + 4 : place + 8 + length], found[place + 8 + length : place + 12 + length]
    assert chunk.startswith(b"tEXtreceipt\0")
    assert zlib.crc32(chunk) == int.from_bytes(check, "big")
    assert found[:place] + found[place + 12 + length :] == png


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Key files, made by the commands of the documentation."""
    folder = tmp_path_factory.mktemp("keys")
    for name, kind in {"mine": ["ed25519"], "other": ["ed25519"], "rsa": ["rsa"]}.items():
        private, public = str(folder / f"{name}.pem"), str(folder / f"{name}.pub.pem")
        subprocess.run(["openssl", "genpkey", "-quiet", "-algorithm", *kind, "-out", private], check=True)
        subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    locked = ["-in", str(folder / "mine.pem"), "-aes256", "-passout", "pass:abcd", "-out", str(folder / "locked.pem")]
    subprocess.run(["openssl", "pkey", *locked], check=True)
    return folder


def test_a_signature_holds_for_the_receipt_as_it_was_signed_and_by_its_own_key_alone(keys, answer):
    public = read_key(keys / "mine.pub.pem", "public")
    signed = recorded(sign(answer.receipt(), read_key(keys / "mine.pem", "private")))
    assert is_signed(signed, public)
    assert is_signed(dict(reversed(signed.items())), public), "the order of the fields says nothing"
    assert not is_signed(signed, read_key(keys / "other.pub.pem", "public"))
    assert not is_signed({**signed, "prediction": {"index": 0, "label": "red"}}, public)
    assert not is_signed({**signed, "more": 1}, public)
    for signature in ("", "!", "AAAA", None, 3, signed["signature"][:-4]):
        assert not is_signed({**signed, "signature": signature}, public)
    assert not is_signed(answer.receipt(), public)


@pytest.mark.parametrize(
    ("name", "half"),
    [
        *(("none.pem", "private"), ("rsa.pem", "private"), ("rsa.pub.pem", "public"), ("locked.pem", "private")),
        *(("mine.pem", "public"), ("mine.pub.pem", "private"), ("", "private")),
    ],
)
def test_what_is_no_key_is_refused_in_one_line(keys, name, half):
    needed = f"needed are the extra signing and a {half} Ed25519 key without a password"
    with pytest.raises(ModelError, match=rf"{name} cannot be used \([^\n]+\), {needed}$"):
        read_key(keys / name, half)


def test_the_command_says_what_it_found_and_ends_with_0_for_an_equal_answer_and_1_for_another(
    graph, answer, keys, tmp_path, capsys
):
    (tmp_path / "a.png").write_bytes(PICTURE)
    (tmp_path / "b.png").write_bytes(encode_png(255 - PIXELS))
    signed = sign(answer.receipt(), read_key(keys / "mine.pem", "private"))
    (tmp_path / "answer.json").write_text(json.dumps(answer.to_dict(receipt=signed)))
    again = ["replay", str(tmp_path / "answer.json"), str(tmp_path / "a.png"), "--model", str(graph)]
    assert main([*again, "--public-key", str(keys / "mine.pub.pem")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].split() == ["image", "equal"]
    assert {line[33:] for line in said[:-1]} == {"equal", "equal, the same bytes", "valid"}
    assert said[-1] == "the answer is equal"
    assert main([*again, "--public-key", str(keys / "other.pub.pem")]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "changed: signature"
    assert main([again[0], again[1], str(tmp_path / "b.png"), *again[3:]]) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("changed: image, prediction, scores, guided_backprop of")
    assert main([again[0], str(tmp_path / "a.png"), *again[2:]]) == 2
    assert capsys.readouterr().err.startswith("error: the receipt cannot be read (KeyError: 'receipt'), valid are ")
