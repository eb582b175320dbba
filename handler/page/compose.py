"""Composes the model's page of the modules beside this file: one HTML file, which loads nothing from elsewhere."""

import base64
import hashlib
import re
from collections.abc import Mapping
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from handler.explanation.methods import METHODS
from handler.protocol.answer import HTML, PROBE, Answer, json_text

_FOLDER = Path(__file__).parent
_IMPORT = re.compile(r'^import [^;]*? from "\./(\w+)\.js";\n', re.MULTILINE)
_ESCAPED = str.maketrans({letter: f"\\u{ord(letter):04x}" for letter in "<>&\u2028\u2029"})
_METHODS = {name: {"title": how.title, "passes": how.passes, "ofClass": how.of_class} for name, how in METHODS.items()}


def script() -> str:
    """All modules as one, each behind those that it imports; their names are unique."""
    texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted(_FOLDER.glob("*.js"))}
    order = TopologicalSorter({name: _IMPORT.findall(text) for name, text in texts.items()}).static_order()
    return "\n".join(re.sub("^export ", "", _IMPORT.sub("", texts[name]), flags=re.MULTILINE) for name in order)


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


_STYLE, _SCRIPT = (_FOLDER / "page.css").read_text(encoding="utf-8"), script()
_POLICY = f"default-src 'none'; script-src {_source(_SCRIPT)}; style-src {_source(_STYLE)}; img-src data: blob:; "
_POLICY += "connect-src 'self'; base-uri 'none'; form-action 'none'"
_CAUTION = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}
HEADERS: Mapping[str, str] = {"Content-Security-Policy": f"{_POLICY}; frame-ancestors 'none'", **_CAUTION}


@cache
def _skeleton() -> list[str]:
    """The page's text before and behind its content."""
    text = (_FOLDER / "page.html").read_text(encoding="utf-8")
    for name, value in {"policy": _POLICY, "style": _STYLE, "script": _SCRIPT}.items():
        text = text.replace(f"{{{{{name}}}}}", value)
    return text.split("{{content}}")


def page(content: Mapping[str, Any]) -> bytes:
    """The page, HTML in UTF-8.

    ``content`` has ``card``, a model's description; ``answers``, a list of ``name``, ``picture`` (a data URI) and
    ``answer`` with maps of the encoding npy; ``static``, whether they are shown without a server; and ``models``, what
    else the server answers for. With ``gallery``, what the command ``report`` found, it is a gallery. ``locked`` alone
    makes a page that asks for the server's token.
    """
    return json_text({"methods": _METHODS, **content}).translate(_ESCAPED).join(_skeleton()).encode("utf-8", "replace")


def page_answer(content: Mapping[str, Any]) -> Answer:
    """The answer of a page that is about no picture; ``page`` says what the content is."""
    return Answer(body=page(content), content_type=f"{HTML}; charset=utf-8", headers=HEADERS, outcome=PROBE)
