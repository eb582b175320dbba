"""The Open Inference Protocol over gRPC: requests and answers are those of V2 over HTTP, in messages."""

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.message import DecodeError, Message

from deploy.light.models import SERVER, Models
from handler.errors import BadRequest, RequestError
from handler.protocol.answer import Answer, error_answer
from handler.protocol.kserve import JSON_SIZE
from handler.protocol.request import MOST_UNPACKED
from handler.protocol.row import Row

_PROTOCOL = Path(__file__).with_name("open_inference.binpb")  # of the file .proto beside it
_SERVICE = "inference.GRPCInferenceService"
_CODES = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
}  # of answers by their HTTP status; others are INVALID_ARGUMENT
_PROBES = ("ServerLive", "ServerReady")
_GRACE = 60.0  # seconds in which requests that have arrived are answered
_OPTIONS = [
    ("grpc.max_receive_message_length", MOST_UNPACKED),
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),  # a port of another server counts as taken
]


@asynccontextmanager
async def listen(
    models: Models, address: str, certificate: Path | None = None, key: Path | None = None
) -> AsyncIterator[int]:
    """Answers at an address, ``host:port``, within the block, and yields the port; an OSError says that it is taken.

    With a certificate and its key, files in PEM or one file of both, clients must use TLS.
    """
    server, pool, methods = grpc.aio.server(options=_OPTIONS), descriptor_pool.DescriptorPool(), {}
    for file in descriptor_pb2.FileDescriptorSet.FromString(_PROTOCOL.read_bytes()).file:
        pool.Add(file)
    for method in pool.FindServiceByName(_SERVICE).methods:
        asked, answered = map(message_factory.GetMessageClass, (method.input_type, method.output_type))
        methods[method.name] = grpc.unary_unary_rpc_method_handler(
            _answering(models, method.name, asked, answered), None, answered.SerializeToString
        )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, methods),))
    try:
        if certificate:
            pair = (key or certificate).read_bytes(), certificate.read_bytes()
            port = server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
        else:
            port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"gRPC cannot listen at {address}; valid is a free port") from error
    await server.start()
    try:
        yield port
    finally:
        await server.stop(_GRACE)


def _answering(
    models: Models, name: str, asked: type[Message], answered: type[Message]
) -> Callable[[bytes, Any], Awaitable[Message]]:
    """The function that answers a method's requests, messages ``asked``, with responses, messages ``answered``."""

    async def answer(content: bytes, context: Any) -> Message:
        try:
            request: Any = _parsed(content, asked)
            if name not in _PROBES:
                models.authorise(str(dict(context.invocation_metadata()).get("authorization", "")))
            if name == "ModelInfer":
                return await _infer(models, request, answered)
            told = {"ServerMetadata": SERVER, "ServerLive": {"live": True}}.get(name, {"ready": True})
            if name.startswith("Model"):
                model = models.find(request.name, request.version)
                told = models.metadata(model) if name == "ModelMetadata" else told
            return json_format.ParseDict(told, answered())
        except RequestError as error:
            return await context.abort(_CODES.get(error.status, grpc.StatusCode.INVALID_ARGUMENT), str(error))

    return answer


def _parsed(content: bytes, kind: type[Message]) -> Message:
    try:
        return kind.FromString(content)
    except DecodeError as error:
        raise BadRequest(f"the message is no {kind.DESCRIPTOR.name}") from error


async def _infer(models: Models, request: Any, answered: type[Message]) -> Message:
    started, model = time.perf_counter(), models.find(request.model_name, request.model_version)
    try:
        answer = await models.ask(model, to_row(request))
    except RequestError as error:
        answer = error_answer(error)
    answer = models.reported(model, answer, request.ByteSize(), time.perf_counter() - started)
    if answer.status == 200:
        return to_message(answer, answered())
    refused = RequestError(json.loads(answer.body)["message"])
    refused.status = answer.status
    raise refused


def to_row(request: Any) -> Row:
    """A ``ModelInferRequest`` as V2's request over HTTP, whose outputs are binary."""
    content = json_format.MessageToDict(request, preserving_proto_field_name=True)
    raw = b"".join(request.raw_input_contents)
    content.pop("raw_input_contents", None)
    inputs, outputs = content.get("inputs", []), content.get("outputs", [])
    for holder in (content, *inputs, *outputs):
        holder["parameters"] = {
            name: next(iter(one.values()), None) for name, one in holder.get("parameters", {}).items()
        }
    for output in outputs:
        output["parameters"]["binary_data"] = True
    content["parameters"]["binary_data_output"] = True
    for tensor in inputs:
        tensor["shape"] = [int(size) for size in tensor.get("shape", [])]
        contents = [*tensor.pop("contents", {}).values()]
        if raw:
            tensor["parameters"]["binary_data_size"] = len(raw)
        elif contents:
            tensor["data"] = contents[0]
    text = json.dumps(content).encode()
    return Row(fields={"body": text + raw}, content_type="application/json", json_size=str(len(text)) if raw else None)


def to_message(answer: Answer, message: Any) -> Any:
    """Fills a ``ModelInferResponse`` with V2's answer over HTTP, whose outputs are binary."""
    place = int(answer.headers[JSON_SIZE])
    content = json.loads(answer.body[:place])
    for output in content["outputs"]:
        size = output.pop("parameters")["binary_data_size"]
        message.raw_output_contents.append(answer.body[place : place + size])
        place += size
    return json_format.ParseDict(content, message)
