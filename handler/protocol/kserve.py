"""KServe's inference protocols V1 and V2 (the Open Inference Protocol), for pictures.

The body's keys tell the protocol, because a TorchServe handler does not see the path of the request: V1 has
``instances``, V2 has ``inputs``. TorchServe's own service envelopes are not used, because they break batches. V2's
binary extension puts tensors behind the JSON: BYTES elements each behind their length, four bytes, others row by row.
"""

import io
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from handler.errors import BadRequest
from handler.protocol.answer import Answer, json_text
from handler.protocol.envelope import MAX_PICTURES, Envelope, Written, in_json
from handler.protocol.options import MAPS, shown

OUTPUT = "answer"  # the name of V2's output tensor of answers; maps are outputs, too, with the encoding "tensor"
JSON_SIZE = "Inference-Header-Content-Length"  # the header with the bytes of the JSON before binary tensors
_LONGEST_ID = 128
_V1 = '{"instances": [{"image": "<base64>", "target": "tabby"}]}'
_V2 = '{"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": ["<base64>"]}], "parameters": {…}}'
_V2_KEYS = ("id", "model_name", "model_version", "parameters", "inputs", "outputs")
_INPUT_KEYS = ("name", "datatype", "shape", "data", "parameters")
_LENGTH = struct.Struct("<I")  # before each element of a binary BYTES tensor


def open_kserve(body: Mapping[str, Any], explain: bool, binary: bytes | None = None) -> Envelope | None:
    """Reads a KServe request; None for a JSON body that has neither ``instances`` nor ``inputs``.

    ``explain`` adds V1's ``explanations``; ``binary`` is what follows V2's JSON. BadRequest says what is not valid.
    """
    if "instances" in body:
        _only(body, ("instances",), "a V1 request")
        instances = body["instances"]
        _check_length(instances, "instances", _V1)
        parts = {f"instances[{place}]": _fields(instance, place) for place, instance in enumerate(instances)}
        return Envelope(parts, partial(_listed, explain))
    if "inputs" in body:
        _only(body, _V2_KEYS, "a V2 request")
        said = body.get("id")
        if said is not None and not (isinstance(said, str) and len(said) <= _LONGEST_ID and said.isprintable()):
            raise BadRequest(f"id is not valid, valid is text of at most {_LONGEST_ID} printable characters")
        options = _parameters(body, "parameters")
        outputs = _requested(body.get("outputs"), options.pop("binary_data_output", False))
        parts = _pictures(body["inputs"], options, binary)
        return Envelope(parts, partial(_outputs, said, outputs), has_tensors=True)
    return None


def _listed(explain: bool, answers: Sequence[Written]) -> Answer:
    """V1's answer, one per instance: as ``predictions``, or as ``explanations`` beside ``predictions`` of classes."""
    classes = [list(answer.predictions) for answer in answers]
    first = f'"predictions": {json_text(classes)}, "explanations"' if explain else '"predictions"'
    return in_json(f"{{{first}: [{', '.join(answer.text for answer in answers)}]}}")


def _outputs(said: str | None, wanted: Mapping[str, bool], answers: Sequence[Written]) -> Answer:
    """V2's answer: the BYTES tensor ``answer`` (n), whose elements are the JSON texts, and maps as FP32 (n, T, …).

    ``said`` is the id, ``wanted`` says by the output's name whether it is binary, and "" of outputs without a name.
    """
    model, outputs, behind = answers[0].model, [], b""
    names = [name for name in wanted if name] or [OUTPUT, *answers[0].tensors]
    for name in names:
        binary = wanted.get(name, wanted[""])
        if name == OUTPUT:
            texts = [answer.text for answer in answers]
            output: dict[str, Any] = {"name": name, "datatype": "BYTES", "shape": [len(texts)], "data": texts}
            packed = b"".join(_LENGTH.pack(len(text)) + text for text in map(str.encode, texts)) if binary else b""
        else:
            values = _stacked(name, answers)
            output = {"name": name, "datatype": "FP32", "shape": [*values.shape]}
            packed = values.astype("<f4").tobytes() if binary else b""
            if not binary:
                flat = values.astype(np.float64).ravel()
                output["data"] = np.where(np.isnan(flat), np.array(None), flat).tolist()
        if binary:
            output.pop("data", None)
            output["parameters"] = {"binary_data_size": len(packed)}
            behind += packed
        outputs.append(output)
    known = {"model_name": model["name"], "model_version": model["version"], **({} if said is None else {"id": said})}
    text = json_text({**known, "outputs": outputs})
    if not behind:
        return in_json(text)
    headers = {JSON_SIZE: str(len(text.encode()))}
    return Answer(body=text.encode() + behind, content_type="application/octet-stream", headers=headers)


def _stacked(name: str, answers: Sequence[Written]) -> Any:
    if any(name not in answer.tensors for answer in answers):
        raise BadRequest(f"there is no output {name}, valid are {OUTPUT} and, with encoding tensor, the maps asked for")
    maps = [answer.tensors[name] for answer in answers]
    if len({values.shape for values in maps}) > 1:
        raise BadRequest(f"the pictures' maps have several sizes, so that {name} is no tensor; valid is size input")
    return np.stack(maps)


def _fields(instance: Any, place: int) -> dict[str, Any]:
    """An instance's picture and options; base64 text, or TensorFlow's form of it, is a picture without options."""
    if isinstance(instance, str) or (isinstance(instance, dict) and set(instance) == {"b64"}):
        return {"image": instance}
    if not isinstance(instance, dict):
        raise BadRequest(f"instances[{place}] must be an object with a picture in base64, valid is {_V1}")
    return dict(instance)


def _pictures(inputs: Any, options: Mapping[str, Any], binary: bytes | None) -> dict[str, dict[str, Any]]:
    """The pictures and options of V2's tensor: encoded pictures as BYTES, or pixels as UINT8 (n, H, W, C)."""
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise BadRequest(f"inputs must be a list of one tensor, valid is {_V2}")
    (tensor,) = inputs
    _only(tensor, _INPUT_KEYS, "inputs[0]")
    options = {**options, **_parameters(tensor, "inputs[0].parameters")}
    size, shape, data = options.pop("binary_data_size", None), tensor.get("shape"), tensor.get("data")
    if size != (None if binary is None else len(binary)) or (data is None) != (binary is not None):
        valid = f"valid are data, or binary_data_size bytes behind the JSON, whose size the header {JSON_SIZE} says"
        raise BadRequest(f"inputs[0] has not the data that it announces, {valid}")
    if tensor.get("datatype") == "UINT8":
        pictures = [*map(_array, _pixels(shape, data if binary is None else np.frombuffer(binary, np.uint8)))]
    elif tensor.get("datatype") == "BYTES":
        pictures = [*islice(_elements(binary), MAX_PICTURES + 1)] if binary is not None else data
        _check_length(pictures, "inputs[0].data", _V2)
        if shape != [len(pictures)]:
            raise BadRequest(f"inputs[0].shape is {shown(shape)}, valid is [{len(pictures)}], as data has")
        if wrong := [place for place, one in enumerate(pictures) if not isinstance(one, (str, bytes))]:
            raise BadRequest(f"inputs[0].data[{wrong[0]}] must be a picture's base64 text")
    else:
        valid = f"valid are BYTES: {_V2}, and UINT8 of shape [n, H, W, C]"
        raise BadRequest(f"inputs[0].datatype is {shown(tensor.get('datatype'))}, {valid}")
    return {f"inputs[0].data[{place}]": {**options, "image": picture} for place, picture in enumerate(pictures)}


def _elements(binary: bytes) -> Iterator[bytes]:
    """The elements of a binary BYTES tensor."""
    place = 0
    while place < len(binary):
        start = place + _LENGTH.size
        if start > len(binary) or start + (size := _LENGTH.unpack_from(binary, place)[0]) > len(binary):
            raise BadRequest("the binary BYTES tensor is truncated, valid is each element behind its length")
        yield binary[start : start + size]
        place = start + size


def _pixels(shape: Any, data: Any) -> Any:
    sizes = shape if isinstance(shape, list) and all(type(size) is int and size > 0 for size in shape) else []
    try:
        flat = np.asarray(data).ravel()
    except ValueError:  # lists of several lengths
        flat = np.empty(0)
    if len(sizes) != 4 or sizes[0] > MAX_PICTURES or math.prod(sizes) != flat.size or flat.dtype.kind not in "iu":
        valid = f"valid are [n, H, W, C] with n up to {MAX_PICTURES}, and as many whole numbers"
        raise BadRequest(f"inputs[0].shape is {shown(shape)} of {flat.size} values, {valid}")
    if flat.min() < 0 or flat.max() > 255:
        raise BadRequest("inputs[0].data has values beyond those of UINT8, valid are 0 to 255")
    return flat.astype(np.uint8).reshape(sizes)


def _array(pixels: Any) -> bytes:
    """Pixels as a file that is a picture here."""
    np.save(file := io.BytesIO(), pixels)
    return file.getvalue()


def _parameters(holder: Mapping[str, Any], place: str) -> dict[str, Any]:
    """The options among the parameters of a request or a tensor."""
    parameters = holder.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise BadRequest(f"{place} must be an object of options")
    if held := [name for name in parameters if name in ("image", "data", "body")]:
        raise BadRequest(f"{place} holds {held[0]}, but options are valid there; pictures go under data of the tensor")
    return dict(parameters)


def _requested(outputs: Any, default: Any) -> dict[str, bool]:
    """Whether each requested output is binary, by name; under "" whether the others are."""
    wanted = {"": bool(default)}
    for output in outputs if isinstance(outputs, list) else [outputs] if outputs is not None else []:
        parameters = (output.get("parameters") or {}) if isinstance(output, dict) else None
        if not isinstance(parameters, dict) or output.get("name") not in (OUTPUT, *MAPS):
            raise BadRequest(f'outputs are not valid, valid is [{{"name": "{OUTPUT}"}}], or a map with encoding tensor')
        if set(parameters) - {"binary_data"} or set(output) - {"name", "parameters"}:
            raise BadRequest(f"outputs[{len(wanted) - 1}] takes no parameters but binary_data")
        wanted[output["name"]] = bool(parameters.get("binary_data", default))
    return wanted


def _check_length(items: Any, name: str, example: str) -> None:
    if not isinstance(items, list) or not items:
        raise BadRequest(f"{name} must be a list of 1 to {MAX_PICTURES} pictures, valid is {example}")
    if len(items) > MAX_PICTURES:
        raise BadRequest(f"{name} holds {len(items)} pictures, valid are 1 to {MAX_PICTURES} in one request")


def _only(given: Mapping[str, Any], valid: Sequence[str], where: str) -> None:
    if unknown := [key for key in given if key not in valid]:
        raise BadRequest(f"{where} has no {shown(unknown[0])}, valid are {', '.join(valid)}")
