"""The mixed profile: what request number n asks for, and whether an answer is its own."""

import base64
import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from urllib3 import encode_multipart_formdata

from benchmarks.reliability.pictures import Drawn, marked

HASH_HEADER = "x-image-sha256"
FORMS = ("multipart", "raw", "json")
_BOUNDARY = "a-boundary-that-no-picture-holds"  # a random one would make equal requests differ
_MAPS = ("gradcam", "guided_backprop", "guided_gradcam", "saliency")


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of request, and the answer that it must get."""

    share: int  # per cent
    options: Mapping[str, str] = field(default_factory=dict)
    maps: tuple[str, ...] = ()  # their names in the answer
    status: int = 200


KINDS = {
    "prediction": Kind(share=42, options={"maps": "none"}),
    "gradcam": Kind(share=20, options={"maps": "gradcam"}, maps=_MAPS[:1]),
    "three maps": Kind(share=10, maps=_MAPS[:3]),
    "all maps": Kind(share=4, options={"maps": "all"}, maps=_MAPS),
    "two targets": Kind(share=8, options={"target": "heart,arrow", "maps": "gradcam"}, maps=_MAPS[:1]),
    "sheet": Kind(share=6),
    "arrays": Kind(share=4, options={"maps": "gradcam", "encoding": "npy"}, maps=_MAPS[:1]),
    # mistakes of the client
    "not an image": Kind(share=3, status=415),
    "bad option": Kind(share=3, status=400),
}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request and what is known of its answer before it comes."""

    number: int
    kind: str
    form: str
    body: bytes
    headers: dict[str, str]
    upload: bytes  # the picture's bytes, whatever form carries them
    drawn: Drawn
    token: str  # a mistaken request's own text, which its answer repeats


def mixed(number: int, pool: Sequence[Drawn], seed: int) -> Asked:
    """Request ``number`` of the mixed profile; the same arguments give the same request."""
    chance = random.Random(f"{seed}:{number}")
    kind = chance.choices(list(KINDS), [one.share for one in KINDS.values()])[0]
    return request(number, kind, chance.choice(FORMS), chance.choice(pool), seed)


def request(number: int, kind: str, form: str, drawn: Drawn, seed: int = 0) -> Asked:
    """One request of a kind, with a picture that no other request has."""
    options, token = dict(KINDS[kind].options), ""
    upload = marked(drawn.jpeg, f"request {number} of load {seed}")
    if kind == "not an image":
        start = b"\x01" + number.to_bytes(7, "big")  # the answer names the first eight bytes
        upload, token = start + upload[8:], start.hex(" ")
    elif kind == "bad option":
        token = options["target"] = f"zebra{number}"
    headers, body = {"Content-Type": "image/jpeg"}, upload
    if form == "raw":
        headers |= {f"X-Explain-{name}": value for name, value in options.items()}
    elif form == "json":
        headers["Content-Type"] = "application/json"
        body = json.dumps({"image": base64.b64encode(upload).decode("ascii"), **options}).encode("ascii")
    else:
        fields: dict[str, Any] = {"data": ("picture.jpg", upload, "image/jpeg"), **options}
        body, headers["Content-Type"] = encode_multipart_formdata(fields, boundary=_BOUNDARY)
    headers["Accept"] = "image/png" if kind == "sheet" else "application/json"
    known = {"body": body, "upload": upload}
    return Asked(number=number, kind=kind, form=form, headers=headers, drawn=drawn, token=token, **known)


def judge(asked: Asked, status: int, headers: Mapping[str, str], body: bytes) -> str:
    """Says what is wrong with an answer, "" if nothing is.

    An answer of another request begins with "crossed". "unidentified" is a good answer that does not say which
    picture it is of.
    """
    try:
        return next(_faults(asked, status, headers, body), "")
    except (LookupError, TypeError, ValueError) as error:
        return f"the answer cannot be read: {error!r}"


def _faults(asked: Asked, status: int, headers: Mapping[str, str], body: bytes) -> Iterator[str]:
    """The worst first."""
    kind, own = KINDS[asked.kind], hashlib.sha256(asked.upload).hexdigest()
    if status != kind.status:
        yield f"status {status} instead of {kind.status}: {body[:120]!r}"
    named = next((value for key, value in headers.items() if key.lower() == HASH_HEADER), None)
    if named not in (None, own):
        yield f"crossed: the answer's header names the picture {named}, not {own}"
    if asked.token:
        if asked.token.encode() not in body:
            yield f"crossed or wrong: {asked.token} is not in {body[:200]!r}"
        return
    if asked.kind != "sheet":
        content = json.loads(body)
        yield from _faults_of_content(asked, content, own)
        named = named or content.get("image")
    elif not body.startswith(b"\x89PNG"):
        yield "the sheet is no PNG"
    if not named:
        yield "unidentified"


def _faults_of_content(asked: Asked, content: dict[str, Any], own: str) -> Iterator[str]:
    found, side = content.get("image", {}).get("sha256", own), [asked.drawn.side] * 2
    if found != own:
        yield f"crossed: the answer is of the picture {found}, not {own}"
    if content["view"]["image"] != side:
        yield f"crossed: the answer is of a picture of {content['view']['image']}, not {side}"
    targets = [one["target"]["label"] for one in content["explanations"]]
    top = content["predictions"][0]["label"]
    expected = {"prediction": [], "two targets": ["heart", "arrow"]}.get(asked.kind, [top])
    if targets != expected:
        yield f"explained are {targets}, not {expected}"
    start = b"\x93NUMPY" if asked.kind == "arrays" else b"\x89PNG"
    for maps in (one["maps"] for one in content["explanations"]):
        if tuple(maps) != KINDS[asked.kind].maps:
            yield f"the maps are {', '.join(maps)}"
        for name, one in maps.items():
            if not base64.b64decode(one["data"][:32]).startswith(start):
                yield f"{name} is not what was asked for"
