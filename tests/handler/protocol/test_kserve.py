"""KServe's bodies as such: what is read out of them, what is refused, how answers are put together."""

import base64
import io
import json
import struct
from dataclasses import replace

import numpy as np
import pytest

from handler.errors import BadRequest
from handler.protocol.envelope import MAX_PICTURES, Written
from handler.protocol.kserve import open_kserve
from handler.protocol.options import Options
from handler.protocol.request import parse_row
from handler.protocol.row import Row

PICTURE = b"\x89PNG..."
TEXT = base64.b64encode(PICTURE).decode()
PIXELS = {"name": "input-0", "datatype": "UINT8", "shape": [1, 2, 2, 3], "data": list(range(12))}
TENSOR = {"name": "input-0", "datatype": "BYTES", "shape": [2], "data": [TEXT, TEXT]}


def parse(body, **said):
    return parse_row(Row(fields={"body": body}, **said), Options())


def written(number):
    model = {"name": "m", "version": "2.0"}
    predictions = [{"index": number, "label": "kürbis"}]
    text = json.dumps({"model": model, "predictions": predictions})
    return Written(text=text, model=model, predictions=predictions, tensors={})


@pytest.mark.parametrize("instance", [{"image": TEXT}, {"data": {"b64": TEXT}}, {"b64": TEXT}, TEXT])
def test_an_instance_is_a_picture_with_or_without_options(instance):
    (asked,) = parse({"instances": [instance]}).asked
    assert asked.image == PICTURE
    assert asked.place == "instances[0]"


def test_instances_have_options_of_their_own_and_headers_are_for_all():
    body = {"instances": [{"image": TEXT, "top_k": 1}, {"image": TEXT, "size": "image"}]}
    first, second = (asked.options for asked in parse(body, options={"size": "layer"}).asked)
    assert (first.top_k, first.size) == (1, "layer")
    assert (second.top_k, second.size) == (None, "image")


def test_a_tensors_parameters_go_before_the_requests():
    tensor = {**TENSOR, "parameters": {"top_k": 2}}
    body = {"inputs": [tensor], "parameters": {"top_k": 1, "maps": "none", "binary_data_output": False}}
    for asked in parse(body).asked:
        assert asked.image == PICTURE
        assert (asked.options.top_k, asked.options.maps) == (2, ())


def test_bytes_are_read_as_json_where_no_header_says_so():
    assert len(parse(json.dumps({"instances": [TEXT, TEXT]}).encode()).asked) == 2


def test_predictions_hold_an_answer_per_instance():
    envelope = parse({"instances": [TEXT, TEXT]}).envelope
    answers = [written(3), written(7)]
    assert json.loads(envelope.seal(answers).body) == {"predictions": [json.loads(one.text) for one in answers]}


def test_explanations_hold_an_answer_per_instance_beside_its_classes():
    envelope = parse({"instances": [TEXT, TEXT]}, explains=True).envelope
    answers = [written(3), written(7)]
    assert json.loads(envelope.seal(answers).body) == {
        "predictions": [one.predictions for one in answers],
        "explanations": [json.loads(one.text) for one in answers],
    }


def test_a_tensor_of_json_texts_answers_a_tensor_of_pictures():
    answers = [written(3), written(7)]
    sealed = json.loads(parse({"inputs": [TENSOR], "id": "call 5 ü"}).envelope.seal(answers).body)
    assert sealed == {
        "model_name": "m",
        "model_version": "2.0",
        "id": "call 5 ü",
        "outputs": [{"name": "answer", "datatype": "BYTES", "shape": [2], "data": [one.text for one in answers]}],
    }
    assert "id" not in json.loads(parse({"inputs": [TENSOR]}).envelope.seal(answers).body)


def test_as_many_pictures_and_as_long_an_id_as_there_may_be_are_read():
    assert len(parse({"instances": [TEXT] * MAX_PICTURES}).asked) == MAX_PICTURES
    most = {**TENSOR, "shape": [MAX_PICTURES], "data": [TEXT] * MAX_PICTURES}
    envelope = parse({"inputs": [most], "id": "x" * 128}).envelope
    assert json.loads(envelope.seal([written(1)] * MAX_PICTURES).body)["id"] == "x" * 128


def test_other_bodies_are_no_kserve_bodies():
    assert open_kserve({"image": TEXT}, explain=False) is None


BAD_BODIES = [
    ({"instances": []}, "list of 1 to 16 pictures"),
    ({"instances": {"image": TEXT}}, "list of 1 to 16 pictures"),
    ({"instances": [TEXT] * (MAX_PICTURES + 1)}, "holds 17 pictures, valid are 1 to 16"),
    ({"instances": [TEXT, 5]}, r"instances\[1\] must be an object"),
    ({"instances": [TEXT, {"image": TEXT, "size": "huge"}]}, r"instances\[1\]: size 'huge' does not exist, valid are"),
    ({"instances": [TEXT, {"target": 3}]}, r"instances\[1\]: one picture is needed"),
    ({"instances": [{"image": "§"}]}, r"instances\[0\]: the picture is text and not valid base64"),
    ({"instances": [TEXT], "signature_name": "x"}, "has no 'signature_name', valid are instances"),
    ({"instances": [TEXT], "inputs": [TENSOR]}, "has no 'inputs', valid are instances"),
    ({"inputs": []}, "inputs must be a list of one tensor"),
    ({"inputs": [TENSOR, TENSOR]}, "inputs must be a list of one tensor"),
    ({"inputs": [TEXT]}, "inputs must be a list of one tensor"),
    ({"inputs": TENSOR}, "inputs must be a list of one tensor"),
    ({"inputs": [{**TENSOR, "datatype": "FP32"}]}, "datatype is 'FP32', valid are BYTES"),
    ({"inputs": [{**TENSOR, "shape": [1]}]}, r"shape is \[1\], valid is \[2\]"),
    ({"inputs": [{**TENSOR, "shape": [1, 2]}]}, r"shape is \[1, 2\], valid is \[2\]"),
    ({"inputs": [{**TENSOR, "shape": None}]}, r"shape is None, valid is \[2\]"),
    ({"inputs": [{**TENSOR, "data": [TEXT, 5]}]}, r"inputs\[0\].data\[1\] must be a picture's base64 text"),
    ({"inputs": [{**TENSOR, "data": [TEXT, "§"]}]}, r"inputs\[0\].data\[1\]: the picture is text and not valid"),
    ({"inputs": [{**TENSOR, "data": []}]}, r"inputs\[0\].data must be a list of 1 to 16"),
    ({"inputs": [{**TENSOR, "data": [TEXT] * 17, "shape": [17]}]}, "holds 17 pictures"),
    ({"inputs": [{**TENSOR, "colour": 1}]}, r"inputs\[0\] has no 'colour', valid are name, datatype"),
    ({"inputs": [{**TENSOR, "parameters": {"binary_data_size": 9}}]}, "has not the data that it announces"),
    ({"inputs": [{**PIXELS, "shape": [1, 2, 2]}]}, r"shape is \[1, 2, 2\] of 12 values, valid are \[n, H, W, C\]"),
    ({"inputs": [{**PIXELS, "shape": [2, 2, 2, 3]}]}, "of 12 values, valid are"),
    ({"inputs": [{**PIXELS, "shape": [-1, 2, -2, 3]}]}, "of 12 values, valid are"),
    ({"inputs": [{**PIXELS, "shape": [17, 1, 1, 1], "data": [0] * 17}]}, "n up to 16"),
    ({"inputs": [{**PIXELS, "data": [[0, 1], [2]]}]}, "of 0 values"),
    ({"inputs": [{**PIXELS, "data": [0.5] * 12}]}, "and as many whole numbers"),
    ({"inputs": [{**PIXELS, "data": [256] * 12}]}, "beyond those of UINT8, valid are 0 to 255"),
    (
        {"inputs": [TENSOR], "parameters": {"zoom": 2}},
        r"data\[0\]: unknown option 'zoom', valid are target",
    ),
    ({"inputs": [TENSOR], "parameters": {"image": TEXT}}, "parameters holds image"),
    ({"inputs": [TENSOR], "parameters": [1]}, "parameters must be an object"),
    ({"inputs": [TENSOR], "outputs": [{"name": "logits"}]}, 'valid is \\[{"name": "answer"}'),
    ({"inputs": [TENSOR], "outputs": "answer"}, "outputs are not valid"),
    ({"inputs": [TENSOR], "outputs": [{"name": "answer", "parameters": {"more": True}}]}, "no parameters but"),
    ({"inputs": [TENSOR], "id": 5}, "id is not valid"),
    ({"inputs": [TENSOR], "id": "x" * 129}, "at most 128 printable"),
    ({"inputs": [TENSOR], "id": "a\r\nb"}, "at most 128 printable"),
    ({"inputs": [TENSOR], "id": "\ud800"}, "at most 128 printable"),
    ({"inputs": [TENSOR], "more": 1}, "has no 'more', valid are id, model_name"),
]


@pytest.mark.parametrize(("body", "said"), BAD_BODIES, ids=[said for _, said in BAD_BODIES])
def test_what_is_not_of_the_protocols_shape_is_refused(body, said):
    with pytest.raises(BadRequest, match=said):
        parse(body)


V1 = '{"instances": [{"image": "<base64>", "target": "tabby"}]}'
V2 = '{"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": ["<base64>"]}], "parameters": {…}}'
NOT_ANNOUNCED = (
    "inputs[0] has not the data that it announces, valid are data, or binary_data_size bytes behind the JSON, "
    "whose size the header Inference-Header-Content-Length says"
)
OUTPUTS = 'outputs are not valid, valid is [{"name": "answer"}], or a map with encoding tensor'


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"instances": []}, f"instances must be a list of 1 to 16 pictures, valid is {V1}"),
        ({"instances": [TEXT] * 17}, "instances holds 17 pictures, valid are 1 to 16 in one request"),
        ({"instances": [5]}, f"instances[0] must be an object with a picture in base64, valid is {V1}"),
        ({"instances": [TEXT], "id": "a"}, "a V1 request has no 'id', valid are instances"),
        ({"inputs": []}, f"inputs must be a list of one tensor, valid is {V2}"),
        (
            {"inputs": [{**TENSOR, "datatype": "FP32"}]},
            f"inputs[0].datatype is 'FP32', valid are BYTES: {V2}, and UINT8 of shape [n, H, W, C]",
        ),
        ({"inputs": [{**TENSOR, "data": []}]}, f"inputs[0].data must be a list of 1 to 16 pictures, valid is {V2}"),
        ({"inputs": [{**TENSOR, "shape": [1]}]}, "inputs[0].shape is [1], valid is [2], as data has"),
        ({"inputs": [{**TENSOR, "data": [TEXT, 5]}]}, "inputs[0].data[1] must be a picture's base64 text"),
        ({"inputs": [{**TENSOR, "a": 1}]}, "inputs[0] has no 'a', valid are name, datatype, shape, data, parameters"),
        (
            {"inputs": [TENSOR], "a": 1},
            "a V2 request has no 'a', valid are id, model_name, model_version, parameters, inputs, outputs",
        ),
        ({"inputs": [TENSOR], "parameters": [1]}, "parameters must be an object of options"),
        ({"inputs": [{**TENSOR, "parameters": [1]}]}, "inputs[0].parameters must be an object of options"),
        ({"inputs": [{**TENSOR, "parameters": {"binary_data_size": 0}}]}, NOT_ANNOUNCED),
        ({"inputs": [{name: TENSOR[name] for name in ("name", "datatype", "shape")}]}, NOT_ANNOUNCED),
        *(
            (
                {"inputs": [TENSOR], "parameters": {name: TEXT}},
                f"parameters holds {name}, but options are valid there; pictures go under data of the tensor",
            )
            for name in ("image", "data", "body")
        ),
        ({"inputs": [TENSOR], "outputs": ["answer"]}, OUTPUTS),
        ({"inputs": [TENSOR], "outputs": [{"name": "other"}]}, OUTPUTS),
        (
            {"inputs": [TENSOR], "outputs": [{"name": "answer", "a": 1}]},
            "outputs[0] takes no parameters but binary_data",
        ),
        (
            {"inputs": [TENSOR], "outputs": [{"name": "answer", "parameters": [0]}]},
            OUTPUTS,
        ),
        ({"inputs": [TENSOR], "id": "x" * 129}, "id is not valid, valid is text of at most 128 printable characters"),
    ],
    ids=str,
)
def test_a_refusal_says_what_is_valid(body, said):
    with pytest.raises(BadRequest) as refused:
        parse(body)
    assert str(refused.value) == said


@pytest.mark.parametrize(
    "more",
    [
        {"id": "x" * 128},
        {"outputs": None},
        {"outputs": []},
        {"outputs": {"name": "answer"}},
        {"outputs": [{"name": "answer", "parameters": None}]},
        {"parameters": None},
        {"parameters": {"binary_data_output": False}},
    ],
    ids=str,
)
def test_what_asks_for_nothing_else_is_valid(more):
    assert [asked.options for asked in parse({"inputs": [TENSOR], **more}).asked] == [Options()] * 2


def test_as_many_pictures_as_are_valid_are_read():
    assert len(parse({"instances": [TEXT] * MAX_PICTURES}).asked) == MAX_PICTURES
    many = {**TENSOR, "data": [TEXT] * MAX_PICTURES, "shape": [MAX_PICTURES]}
    assert [asked.place for asked in parse({"inputs": [many]}).asked][-1] == "inputs[0].data[15]"


@pytest.mark.parametrize("output", [{"name": "answer"}, {"name": "answer", "parameters": {"binary_data": False}}])
def test_the_output_that_there_is_may_be_asked_for(output):
    assert len(parse({"inputs": [TENSOR], "outputs": [output]}).asked) == 2


def test_pixels_are_read_flat_nested_and_binary():
    nested = {**PIXELS, "data": np.arange(12).reshape(1, 2, 2, 3).tolist()}
    head = {name: PIXELS[name] for name in ("name", "datatype", "shape")} | {"parameters": {"binary_data_size": 12}}
    text = json.dumps({"inputs": [head]}).encode()
    found = [
        parse({"inputs": [PIXELS]}),
        parse({"inputs": [nested]}),
        parse(text + bytes(range(12)), json_size=str(len(text))),
    ]
    for (asked,) in (one.asked for one in found):
        np.testing.assert_array_equal(np.load(io.BytesIO(asked.image)), np.arange(12).reshape(2, 2, 3))


def test_encoded_pictures_may_be_binary():
    elements = b"".join(struct.pack("<I", len(one)) + one for one in (PICTURE, PICTURE + b"more"))
    head = {name: TENSOR[name] for name in ("name", "datatype", "shape")}
    head["parameters"] = {"binary_data_size": len(elements)}
    text = json.dumps({"inputs": [head]}).encode()
    first, second = parse(text + elements, json_size=str(len(text))).asked
    assert (first.image, second.image) == (PICTURE, PICTURE + b"more")


@pytest.mark.parametrize(
    ("size", "binary", "announced", "said"),
    [
        ("x", b"", 0, "Inference-Header-Content-Length is 'x', valid are 0 to"),
        ("9" * 20, b"", 0, "valid are 0 to"),
        ("99999", b"", 0, "valid are 0 to"),
        (None, b"abc", 4, "has not the data that it announces"),
        (None, b"\x05\0\0\0abcd", 8, "the binary BYTES tensor is truncated"),
        (None, b"\x05\0", 2, "the binary BYTES tensor is truncated"),
    ],
)
def test_binary_tensors_that_are_cut_are_refused(size, binary, announced, said):
    head = {"datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": announced}}
    text = json.dumps({"inputs": [head]}).encode()
    with pytest.raises(BadRequest, match=said):
        parse(text + binary, json_size=size or str(len(text)))


def test_no_more_elements_are_read_than_pictures_are_valid():
    elements = bytes(4_000_000)  # a million of no bytes
    head = {"datatype": "BYTES", "shape": [1_000_000], "parameters": {"binary_data_size": len(elements)}}
    text = json.dumps({"inputs": [head]}).encode()
    with pytest.raises(BadRequest, match="holds 17 pictures, valid are 1 to 16"):
        parse(text + elements, json_size=str(len(text)))


@pytest.mark.parametrize("body", [{"instances": [TEXT]}, {"image": TEXT}])
def test_bytes_behind_another_json_are_refused(body):
    text = json.dumps(body).encode()
    with pytest.raises(BadRequest, match="are tensors; valid are those of V2's inputs"):
        parse(text + b"more", json_size=str(len(text)))
    assert len(parse(text, json_size=str(len(text))).asked) == 1


def test_answers_are_binary_where_it_is_asked_for():
    answers = [written(3), written(7)]
    maps = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    answers = [replace(one, tensors={"gradcam": maps * (k + 1)}) for k, one in enumerate(answers)]
    body = {"inputs": [TENSOR], "parameters": {"encoding": "tensor", "maps": "gradcam", "binary_data_output": True}}
    sealed = parse(body).envelope.seal(answers)
    size = int(sealed.headers["Inference-Header-Content-Length"])
    told, binary = json.loads(sealed.body[:size]), sealed.body[size:]
    first, second = told["outputs"]
    assert (first["name"], second["name"], second["datatype"], second["shape"]) == (
        "answer",
        "gradcam",
        "FP32",
        [2, 2, 2, 2],
    )
    found = np.frombuffer(binary[first["parameters"]["binary_data_size"] :], "<f4").reshape(2, 2, 2, 2)
    np.testing.assert_array_equal(found, [maps, maps * 2])
    (length,) = struct.unpack_from("<I", binary)
    assert json.loads(binary[4 : 4 + length]) == json.loads(answers[0].text)
    only = {**body, "outputs": [{"name": "gradcam", "parameters": {"binary_data": False}}]}
    (output,) = json.loads(parse(only).envelope.seal(answers).body)["outputs"]
    assert output["data"] == [*range(8), *range(0, 16, 2)]


def test_maps_of_several_sizes_and_maps_that_were_not_made_are_no_outputs():
    body = {"inputs": [TENSOR], "parameters": {"encoding": "tensor"}, "outputs": [{"name": "gradcam"}]}
    with pytest.raises(BadRequest, match="there is no output gradcam"):
        parse(body).envelope.seal([written(1)])
    sizes = [replace(written(1), tensors={"gradcam": np.zeros((1, side, 2), np.float32)}) for side in (2, 3)]
    with pytest.raises(BadRequest, match="several sizes, so that gradcam is no tensor"):
        parse(body).envelope.seal(sizes)


@pytest.mark.parametrize("body", [{"image": TEXT}, {"instances": [TEXT]}])
def test_the_encoding_tensor_is_v2s(body):
    with pytest.raises(
        BadRequest, match="tensor is that of V2's answers, valid elsewhere are png, jpeg, webp, npy, list"
    ):
        parse(body, options={"encoding": "tensor"})


def test_a_sheet_is_the_answer_to_one_picture_only():
    with pytest.raises(BadRequest, match="image/png is the form of one picture's answer"):
        parse({"instances": [TEXT]}, accept="image/png")
