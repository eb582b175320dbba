"""The Open Inference Protocol over gRPC, with a stub that is generated of the protocol's file."""

import contextlib
import importlib
import json
import socket
import subprocess
import sys

import grpc
import numpy as np
import pytest
from grpc_tools import protoc

from deploy.local_server import free_ports
from tests.support.serving import ONE, ROOT

pytestmark = pytest.mark.server

FOLDER = ROOT / "deploy/grpc"
PICTURE = ONE.read_bytes()


def generated(folder):
    made = [f"-I{FOLDER}", f"--python_out={folder}", f"--grpc_python_out={folder}", "open_inference.proto"]
    assert protoc.main(["", *made, f"--descriptor_set_out={folder}/made.binpb"]) == 0
    sys.path.insert(0, str(folder))
    try:
        return [importlib.import_module(f"open_inference_{name}") for name in ("pb2", "pb2_grpc")]
    finally:
        sys.path.remove(str(folder))


@contextlib.contextmanager
def asking(archive, folder, *options, authority=None):
    """A server with gRPC; yields messages, the stub and its channel, over TLS if there is an authority."""
    messages, services = generated(folder)
    http, metrics, port = free_ports(3)
    where = ["--port", str(http), "--metrics-port", str(metrics), "--grpc-port", str(port), *options]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "export", "serve", archive, *where], cwd=ROOT, stderr=log)
    try:
        sizes = [("grpc.max_receive_message_length", 20_000_000)]
        at = f"localhost:{port}"
        trusted = grpc.ssl_channel_credentials(authority) if authority else None
        opened = grpc.secure_channel(at, trusted, sizes) if trusted else grpc.insecure_channel(at, sizes)
        with opened as channel:
            grpc.channel_ready_future(channel).result(timeout=60)
            yield messages, services.GRPCInferenceServiceStub(channel), channel
    finally:
        process.terminate()
        process.wait(timeout=60)
    assert "Traceback" not in (folder / "log").read_text()


@pytest.fixture(scope="module")
def made(tmp_path_factory, shapes_archive):
    folder = tmp_path_factory.mktemp("grpc")
    with asking(shapes_archive, folder) as (messages, stub, channel):
        yield messages, stub, folder, channel


def request(messages, *, datatype="BYTES", shape=(1,), raw=None, contents=None, **options):
    asked = messages.ModelInferRequest(model_name="shapes", id="7")
    tensor = asked.inputs.add(name="image", datatype=datatype, shape=shape)
    if raw is not None:
        asked.raw_input_contents.append(raw)
    else:
        getattr(tensor.contents, "bytes_contents" if datatype == "BYTES" else "uint_contents").extend(contents)
    for name, value in options.items():
        asked.parameters[name].string_param = value
    return asked


def answers(response):
    """The JSON texts of the first output: each behind its length."""
    found, raw = [], response.raw_output_contents[0]
    while raw:
        size = int.from_bytes(raw[:4], "little")
        found.append(json.loads(raw[4 : 4 + size]))
        raw = raw[4 + size :]
    return found


def refused(call, *arguments, **options):
    with pytest.raises(grpc.RpcError) as error:
        call(*arguments, **options)
    return error.value.code(), error.value.details()


def test_the_description_is_made_of_the_protocols_file(made):
    assert (made[2] / "made.binpb").read_bytes() == (FOLDER / "open_inference.binpb").read_bytes()


def test_server_and_model_tell_of_themselves(made):
    messages, stub, *_ = made
    assert stub.ServerLive(messages.ServerLiveRequest()).live
    assert stub.ServerReady(messages.ServerReadyRequest()).ready
    assert stub.ServerMetadata(messages.ServerMetadataRequest()).name == "shufflenet-cam"
    assert stub.ModelReady(messages.ModelReadyRequest(name="shapes", version="1.0")).ready
    known = stub.ModelMetadata(messages.ModelMetadataRequest(name="shapes"))
    assert [(one.name, one.datatype, list(one.shape)) for one in known.inputs] == [("image", "BYTES", [-1])]
    code, said = refused(stub.ModelReady, messages.ModelReadyRequest(name="cats"))
    assert code == grpc.StatusCode.NOT_FOUND
    assert "valid are shapes 1.0" in said


def test_pictures_come_as_contents_as_raw_bytes_and_as_pixels(made):
    messages, stub, *_ = made
    packed = len(PICTURE).to_bytes(4, "little") + PICTURE
    for asked in (
        request(messages, contents=[PICTURE], maps="gradcam", encoding="tensor"),
        request(messages, raw=packed, maps="gradcam", encoding="tensor"),
    ):
        response = stub.ModelInfer(asked)
        assert (response.model_name, response.id) == ("shapes", "7")
        (answer,) = answers(response)
        assert answer["predictions"][0]["label"] == "star"
        assert [one.name for one in response.outputs] == ["answer", "gradcam"]
        values = np.frombuffer(response.raw_output_contents[1], "<f4").reshape(response.outputs[1].shape)
        assert values.shape == (1, 1, 320, 320)
        assert values.max() == pytest.approx(1, abs=1e-5)
    pixels = np.full((2, 8, 6, 3), 200, np.uint8)
    shape = pixels.shape
    raw = stub.ModelInfer(request(messages, datatype="UINT8", shape=shape, raw=pixels.tobytes(), maps="none"))
    listed = request(messages, datatype="UINT8", shape=shape, contents=pixels.ravel().tolist(), maps="none")
    assert [one["predictions"] for one in answers(raw)] == [
        one["predictions"] for one in answers(stub.ModelInfer(listed))
    ]
    assert len(answers(raw)) == 2


def test_mistakes_are_told_by_code_and_sentence(made):
    messages, stub, *_ = made
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    code, said = refused(stub.ModelInfer, request(messages, contents=[PICTURE], colour="red"))
    assert code == invalid
    assert "unknown option 'colour', valid are target" in said
    code, said = refused(stub.ModelInfer, request(messages, contents=[b"no picture \xff"]))
    assert code == invalid
    assert "JPEG" in said
    assert refused(stub.ModelInfer, request(messages, raw=b"\xff\xff\xff\x7fx"))[0] == invalid
    assert refused(stub.ModelInfer, messages.ModelInferRequest(model_name="shapes"))[0] == invalid
    code, _ = refused(stub.ModelInfer, messages.ModelInferRequest(model_name="cats"))
    assert code == grpc.StatusCode.NOT_FOUND
    large = request(messages, contents=[bytes(11_000_000)])
    assert refused(stub.ModelInfer, large)[0] == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert stub.ModelInfer(request(messages, contents=[PICTURE], maps="none")).id == "7"


def test_bytes_that_are_no_message_are_refused(made):
    *_, channel = made
    for method in ("ModelInfer", "ServerLive"):
        call = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
        for content in (b"\xff\xff\xff", b"\x0a\x05ab"):
            code, said = refused(call, content)
            assert (code, said) == (grpc.StatusCode.INVALID_ARGUMENT, f"the message is no {method}Request")


def test_a_token_is_asked_for(shapes_archive, tmp_path):
    (tmp_path / "token").write_text("secret\n")
    with asking(shapes_archive, tmp_path, "--token-file", str(tmp_path / "token")) as (messages, stub, _):
        asked = messages.ModelReadyRequest(name="shapes")
        assert stub.ServerLive(messages.ServerLiveRequest()).live
        for wrong in ((), (("authorization", "Bearer guess"),)):
            assert refused(stub.ModelReady, asked, metadata=wrong)[0] == grpc.StatusCode.UNAUTHENTICATED
        assert stub.ModelReady(asked, metadata=(("authorization", "Bearer secret"),)).ready


def test_tls_is_spoken_where_a_certificate_is_given(shapes_archive, tmp_path):
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    new = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days"]
    name = ["2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*new, *name], check=True, capture_output=True)
    options = ["--certificate", str(certificate), "--key", str(key)]
    with asking(shapes_archive, tmp_path, *options, authority=certificate.read_bytes()) as (messages, stub, _):
        assert stub.ServerReady(messages.ServerReadyRequest()).ready


def test_an_address_that_cannot_be_had_is_one_line(shapes_archive):
    http, metrics, port = free_ports(3)
    with socket.create_server(("127.0.0.1", port)):
        ports = ["--port", str(http), "--metrics-port", str(metrics), "--grpc-port", str(port)]
        command = [sys.executable, "-m", "export", "serve", shapes_archive, *ports]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f"error: gRPC cannot listen at 127.0.0.1:{port}; valid is a free port"
    assert "Traceback" not in done.stderr
