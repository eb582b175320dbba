"""Calls a server with KServe's own client, in an environment of its own; writes what came back as JSON.

Usage: .venv-kserve/bin/python tests/support/kserve_client.py ADDRESS MODEL PICTURE
"""

import asyncio
import base64
import json
import sys
from pathlib import Path

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput


async def call(address: str, model: str, picture: str) -> dict:
    v1, v2 = (InferenceRESTClient(RESTConfig(protocol=version, timeout=120)) for version in ("v1", "v2"))
    both = {"instances": [{"image": picture, "maps": "none"}, {"image": picture, "target": "arrow", "size": "layer"}]}
    wrong = {"instances": [{"image": picture}, {"image": picture, "target": "zebra"}]}
    tensor = InferInput("input-0", [2], "BYTES", data=[picture, picture], parameters={"top_k": 3})
    asked = InferRequest(
        model, [tensor], "call-5", parameters={"maps": "none"}, request_outputs=[RequestedOutput("answer")]
    )
    found = await v2.infer(address, asked, model_name=model)
    return {
        "predict": await v1.infer(address, both, model_name=model),
        "explain": await v1.explain(address, model, {"instances": [{"image": picture, "maps": "gradcam"}]}),
        "infer": found.to_rest()[0],
        "as_numpy": [str(one) for one in found.outputs[0].as_numpy()],
        "wrong_v1": await refusal(v1.infer(address, wrong, model_name=model)),
        "wrong_v2": await refusal(v2.infer(address, unfit(model), model_name=model)),
        "binary": [
            str(one)
            for one in (await v2.infer(address, binary(model, picture), model_name=model)).outputs[0].as_numpy()
        ],
        "pixels": (await v2.infer(address, pixels(model), model_name=model)).to_rest()[0]["outputs"],
    }


def unfit(model: str) -> InferRequest:
    return InferRequest(model, [InferInput("input-0", [1, 2], "FP32", data=[0.5, 0.5])])


def binary(model: str, picture: str) -> InferRequest:
    tensor = InferInput("input-0", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([base64.b64decode(picture)], np.object_), binary_data=True)
    asked = [RequestedOutput("answer", parameters={"binary_data": True})]
    return InferRequest(model, [tensor], parameters={"maps": "none"}, request_outputs=asked)


def pixels(model: str) -> InferRequest:
    tensor = InferInput("input-0", [1, 40, 50, 3], "UINT8")
    tensor.set_data_from_numpy(np.arange(6000, dtype=np.uint8).reshape(1, 40, 50, 3), binary_data=True)
    options = {"maps": "gradcam", "encoding": "tensor", "size": "layer"}
    asked = [RequestedOutput("gradcam", parameters={"binary_data": False})]
    return InferRequest(model, [tensor], parameters=options, request_outputs=asked)


async def refusal(answer) -> list:
    """Status and message of an answer that must be an error."""
    try:
        await answer
    except httpx.HTTPStatusError as error:
        return [error.response.status_code, error.response.json()["message"]]
    raise AssertionError("the server took what it should refuse")


if __name__ == "__main__":
    content = base64.b64encode(Path(sys.argv[3]).read_bytes()).decode()
    print(json.dumps(asyncio.run(call(sys.argv[1], sys.argv[2], content))))
