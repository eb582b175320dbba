"""KServe's inference protocols V1 and V2, for pictures.

The body's keys tell the protocol, because a TorchServe handler does not see the path of the request: V1 has
``instances``, V2 has ``inputs``. TorchServe's own service envelopes are not used, because they break batches.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from handler.errors import BadRequest
from handler.protocol.answer import json_text
from handler.protocol.envelope import MAX_PICTURES, Envelope, Part, Written
from handler.protocol.options import shown

OUTPUT = "answer"  # the name of V2's only output tensor
_LONGEST_ID = 128
_V1 = '{"instances": [{"image": "<base64>", "target": "tabby"}]}'
_V2 = '{"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": ["<base64>"]}], "parameters": {…}}'
_V2_KEYS = ("id", "model_name", "model_version", "parameters", "inputs", "outputs")
_INPUT_KEYS = ("name", "datatype", "shape", "data", "parameters")
_NO_BINARY = "binary tensor data is not understood, valid are BYTES tensors with base64 text under data"
BINARY_REFUSED = f"{_NO_BINARY}: {_V2}"  # of V2's binary tensor extension, whose bodies are JSON followed by bytes


@dataclass(frozen=True)
class V1:
    """A V1 request: ``instances``, answered by ``predictions``, and on the explain address by ``explanations``, too."""

    parts: Sequence[Part]
    explain: bool

    def seal(self, answers: Sequence[Written]) -> str:
        """Lists an answer per instance; beside ``explanations``, ``predictions`` lists the predicted classes alone."""
        whole = f"[{', '.join(answer.text for answer in answers)}]"
        if not self.explain:
            return f'{{"predictions": {whole}}}'
        classes = json_text([list(answer.predictions) for answer in answers])
        return f'{{"predictions": {classes}, "explanations": {whole}}}'


@dataclass(frozen=True)
class V2:
    """A V2 request: a BYTES tensor of pictures, answered by a BYTES tensor of JSON texts."""

    parts: Sequence[Part]
    id: str | None

    def seal(self, answers: Sequence[Written]) -> str:
        """Makes the tensor ``answer`` of shape [n], whose elements are the JSON texts of the pictures' answers."""
        data = [answer.text for answer in answers]
        model = answers[0].model
        content = {"model_name": model["name"], "model_version": model["version"], "id": self.id}
        output = {"name": OUTPUT, "datatype": "BYTES", "shape": [len(data)], "data": data}
        known = {key: value for key, value in content.items() if value is not None}
        return json_text({**known, "outputs": [output]})


def open_kserve(body: Mapping[str, Any], explain: bool) -> Envelope | None:
    """Reads a KServe request; None for a body that has neither ``instances`` nor ``inputs``.

    Args:
        body: the parsed JSON body.
        explain: whether the request's address is one for explanations.

    Raises:
        BadRequest: the body does not have the protocol's form, or uses a part of the protocol that is not understood.
    """
    if "instances" in body:
        _only(body, ("instances",), "a V1 request")
        instances = body["instances"]
        _check_length(instances, "instances", _V1)
        parts = [Part(f"instances[{place}]", _fields(instance, place)) for place, instance in enumerate(instances)]
        return V1(parts, explain)
    if "inputs" in body:
        _only(body, _V2_KEYS, "a V2 request")
        _check_outputs(body.get("outputs"))
        parts, said = _tensor(body["inputs"], _parameters(body, "parameters")), body.get("id")
        if said is not None and not (isinstance(said, str) and len(said) <= _LONGEST_ID and said.isprintable()):
            raise BadRequest(f"id is not valid, valid is text of at most {_LONGEST_ID} printable characters")
        return V2(parts, said)
    return None


def _fields(instance: Any, place: int) -> dict[str, Any]:
    """An instance's picture and options; base64 text, or TensorFlow's form of it, is a picture without options."""
    if isinstance(instance, str) or (isinstance(instance, dict) and set(instance) == {"b64"}):
        return {"image": instance}
    if not isinstance(instance, dict):
        raise BadRequest(f"instances[{place}] must be an object with a picture in base64, valid is {_V1}")
    return dict(instance)


def _tensor(inputs: Any, options: Mapping[str, Any]) -> list[Part]:
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
    for place, picture in enumerate(data):
        if not isinstance(picture, str):
            raise BadRequest(f"inputs[0].data[{place}] must be a picture's base64 text")
    return [Part(f"inputs[0].data[{place}]", {**options, "image": picture}) for place, picture in enumerate(data)]


def _parameters(holder: Mapping[str, Any], place: str) -> dict[str, Any]:
    """The options among the parameters of a request or a tensor."""
    parameters = holder.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise BadRequest(f"{place} must be an object of options")
    if parameters.get("binary_data_output") or "binary_data_size" in parameters:
        raise BadRequest(f"{place}: {_NO_BINARY}")
    for name in parameters:
        if name in ("image", "data", "body"):
            raise BadRequest(f"{place} holds {name}, but options are valid there; pictures go under data of the tensor")
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
    unknown = next((key for key in given if key not in valid), None)
    if unknown is not None:
        raise BadRequest(f"{where} has no {shown(unknown)}, valid are {', '.join(valid)}")
