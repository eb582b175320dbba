"""Requests of all kinds, good and bad, to a model of either front."""

import base64
from collections.abc import Callable
from typing import Any

import requests

from tests.support.serving import ONE, TWO, Client

PICTURE, OTHER = ONE.read_bytes(), TWO.read_bytes()
TEXT, OTHER_TEXT = (base64.b64encode(one).decode() for one in (PICTURE, OTHER))


def post(client: Client, path: str, **arguments: Any) -> requests.Response:
    return requests.post(f"{client.server.address}{path.format(client.server.model)}", timeout=120, **arguments)


def v1(client: Client, *instances: Any, verb: str = "predict", **arguments: Any) -> requests.Response:
    return post(client, f"/v1/models/{{}}:{verb}", json={"instances": list(instances)}, **arguments)


def v2(client: Client, *data: str, verb: str = "infer", **parameters: Any) -> requests.Response:
    tensor = {"name": "image", "datatype": "BYTES", "shape": [len(data)], "data": list(data)}
    return post(client, f"/v2/models/{{}}/{verb}", json={"id": "5", "inputs": [tensor], "parameters": parameters})


HELD = "gradcam,guided_backprop,guided_gradcam"
ODD = {"X-Cmd": "ü\x80".encode("latin-1"), "X-Explain-Target": "ring,ü".encode("latin-1"), "explain": "maybe"}
HTTP: dict[str, Callable[[Client], requests.Response]] = {
    "prediction": lambda c: c.form(PICTURE, maps="none"),
    "prediction of the other": lambda c: c.form(OTHER, maps="none", top_k="10"),
    "unknown target": lambda c: c.form(PICTURE, target="zebra"),
    "heart as npy": lambda c: c.form(OTHER, target="heart", maps="gradcam", encoding="npy"),
    "arrow as list": lambda c: c.form(OTHER, target="arrow", maps="gradcam", encoding="list", size="layer"),
    "guided arrays": lambda c: c.form(PICTURE, maps="guided_backprop", encoding="npy"),
    "no picture": lambda c: c.form(b"no picture"),
    "sheet": lambda c: c.post(files={"data": PICTURE}, headers={"Accept": "image/png"}),
    "sheet without maps": lambda c: c.post(data=PICTURE, headers={"ACCEPT": "image/png", "X-EXPLAIN-MAPS": "none"}),
    "raw, all maps": lambda c: c.post(data=PICTURE, headers={"X-Explain-Maps": "all"}),
    "raw, another layer": lambda c: c.post(
        data=OTHER, headers={"x-explain-layer": "stage4", "x-explain-size": "image"}
    ),
    "json": lambda c: c.json({"image": TEXT, "target": [4, "ring"], "maps": ["gradcam"], "overlay": [0.3, "bone"]}),
    "broken json": lambda c: c.post(data=b"{", headers={"Content-Type": "application/json"}),
    "not an object": lambda c: c.json(None),
    "too large an answer": lambda c: c.form(PICTURE, target="0,1,2,3,4,5,6", maps=HELD, encoding="list"),
    "a part named Accept": lambda c: c.post(files={"data": PICTURE, "Accept": b"image/png", "X-Cmd": b"\xff"}),
    "odd headers": lambda c: c.post(data=PICTURE, headers=ODD),
    "explanations": lambda c: post(c, "/explanations/{}", files={"data": OTHER}),
    "v1": lambda c: v1(c, TEXT, {"image": OTHER_TEXT, "target": "arrow", "maps": "gradcam"}),
    "v1 with a wrong instance": lambda c: v1(c, TEXT, {"image": OTHER_TEXT, "target": "zebra"}),
    "v1 explained": lambda c: v1(c, {"image": OTHER_TEXT, "maps": "saliency", "encoding": "npy"}, verb="explain"),
    "v2": lambda c: v2(c, TEXT, OTHER_TEXT, maps="gradcam", size="layer", encoding="list"),
    "v2 of another type": lambda c: post(c, "/v2/models/{}/infer", json={"inputs": [{"datatype": "FP32"}]}),
    "empty": lambda c: c.post(),
}
