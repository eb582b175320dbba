"""KServe's inference protocols V1 and V2, for pictures.

The body's keys tell the protocol, because a TorchServe handler does not see the path of the request: V1 has
``instances``, V2 has ``inputs``. TorchServe's own service envelopes are not used, because they break batches.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from handler.errors import BadRequest
from handler.protocol.answer import json_text
from handler.protocol.envelope import MAX_PICTURES, Envelope, Written
from handler.protocol.options import shown

OUTPUT = "answer"  # the name of V2's only output tensor
_LONGEST_ID = 128
_V1 = '{"instances": [{"image": "<base64>", "target": "tabby"}]}'
_V2 = '{"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": ["<base64>"]}], "parameters": {…}}'
_V2_KEYS = ("id", "model_name", "model_version", "parameters", "inputs", "outputs")
_INPUT_KEYS = ("name", "datatype", "shape", "data", "parameters")
_NO_BINARY = "binary tensor data is not understood, valid are BYTES tensors with base64 text under data"
BINARY_REFUSED = f"{_NO_BINARY}: {_V2}"  # of V2's binary tensor extension, whose bodies are JSON followed by bytes


def open_kserve(body: Mapping[str, Any], explain: bool) -> Envelope | None:
    """Reads a KServe request; None for a JSON body that has neither ``instances`` nor ``inputs``.

    ``explain`` adds V1's ``explanations`` to the answer. BadRequest says what is not valid, or not understood.
    """
    if "instances" in body:
        _only(body, ("instances",), "a V1 request")
        instances = body["instances"]
        _check_length(instances, "instances", _V1)
        parts = {f"instances[{place}]": _fields(instance, place) for place, instance in enumerate(instances)}
        return Envelope(parts, _explanations if explain else _predictions)
    if "inputs" in body:
        _only(body, _V2_KEYS, "a V2 request")
        _check_outputs(body.get("outputs"))
        parts, said = _tensor(body["inputs"], _parameters(body, "parameters")), body.get("id")
        if said is not None and not (isinstance(said, str) and len(said) <= _LONGEST_ID and said.isprintable()):
            raise BadRequest(f"id is not valid, valid is text of at most {_LONGEST_ID} printable characters")
        return Envelope(parts, partial(_outputs, said))
    return None


def _predictions(answers: Sequence[Written]) -> str:
    """V1's answer: ``predictions`` lists an answer per instance."""
    return f'{{"predictions": [{", ".join(answer.text for answer in answers)}]}}'


def _explanations(answers: Sequence[Written]) -> str:
    """V1's answer with ``explanations``: these are an answer per instance, ``predictions`` the classes alone."""
    classes = json_text([list(answer.predictions) for answer in answers])
    return f'{{"predictions": {classes}, "explanations": [{", ".join(answer.text for answer in answers)}]}}'


def _outputs(said: str | None, answers: Sequence[Written]) -> str:
    """V2's answer: the BYTES tensor ``answer`` of shape [n], whose elements are the JSON texts; ``said`` is the id."""
    model, data = answers[0].model, [answer.text for answer in answers]
    known = {"model_name": model["name"], "model_version": model["version"], **({} if said is None else {"id": said})}
    output = {"name": OUTPUT, "datatype": "BYTES", "shape": [len(data)], "data": data}
    return json_text({**known, "outputs": [output]})


def _fields(instance: Any, place: int) -> dict[str, Any]:
    """An instance's picture and options; base64 text, or TensorFlow's form of it, is a picture without options."""
    if isinstance(instance, str) or (isinstance(instance, dict) and set(instance) == {"b64"}):
        return {"image": instance}
    if not isinstance(instance, dict):
        raise BadRequest(f"instances[{place}] must be an object with a picture in base64, valid is {_V1}")
    return dict(instance)


def _tensor(inputs: Any, options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise BadRequest(f"inputs must be a list of one tensor, valid is {_V2}")
    (tensor,) = inputs
    _only(tensor, _INPUT_KEYS, "inputs[0]")
    options = {**options, **_parameters(tensor, "inputs[0].parameters")}
    if tensor.get("datatype") != "BYTES":
        raise BadRequest(f"inputs[0].datatype is {shown(tensor.get('datatype'))}, valid is BYTES: {_V2}")
    data = tensor.get("data")
    _check_length(data, "inputs[0].data", _V2)
    if tensor.get("shape") != [len(data)]:
        raise BadRequest(f"inputs[0].shape is {shown(tensor.get('shape'))}, valid is [{len(data)}], as data has")
    if wrong := [place for place, picture in enumerate(data) if not isinstance(picture, str)]:
        raise BadRequest(f"inputs[0].data[{wrong[0]}] must be a picture's base64 text")
    return {f"inputs[0].data[{place}]": {**options, "image": picture} for place, picture in enumerate(data)}


def _parameters(holder: Mapping[str, Any], place: str) -> dict[str, Any]:
    """The options among the parameters of a request or a tensor."""
    parameters = holder.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise BadRequest(f"{place} must be an object of options")
    if parameters.get("binary_data_output") or "binary_data_size" in parameters:
        raise BadRequest(f"{place}: {_NO_BINARY}")
    if held := [name for name in parameters if name in ("image", "data", "body")]:
        raise BadRequest(f"{place} holds {held[0]}, but options are valid there; pictures go under data of the tensor")
    return {name: value for name, value in parameters.items() if name != "binary_data_output"}


def _check_outputs(outputs: Any) -> None:
    """Refuses requested outputs that do not exist."""
    for output in outputs if isinstance(outputs, list) else [outputs] if outputs is not None else []:
        if not isinstance(output, dict) or output.get("name") != OUTPUT:
            raise BadRequest(f'outputs are not valid, valid is [{{"name": "{OUTPUT}"}}]')
        wanted = output.get("parameters") or {}
        if not isinstance(wanted, dict) or any(wanted.values()) or set(output) - {"name", "parameters"}:
            raise BadRequest(f"outputs[0] takes no parameters: {_NO_BINARY}")


def _check_length(items: Any, name: str, example: str) -> None:
    if not isinstance(items, list) or not items:
        raise BadRequest(f"{name} must be a list of 1 to {MAX_PICTURES} pictures, valid is {example}")
    if len(items) > MAX_PICTURES:
        raise BadRequest(f"{name} holds {len(items)} pictures, valid are 1 to {MAX_PICTURES} in one request")


def _only(given: Mapping[str, Any], valid: Sequence[str], where: str) -> None:
    if unknown := [key for key in given if key not in valid]:
        raise BadRequest(f"{where} has no {shown(unknown[0])}, valid are {', '.join(valid)}")
