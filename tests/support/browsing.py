"""A real browser for tests: pages in Chromium, what they complained of, and a server that misbehaves."""

import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.tools import tool

CHROMIUM = tool("chromium")
_CAMERA = "--use-fake-device-for-media-stream"  # of a drawn picture, for those whom a context permits it
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser; ``new_context`` makes visitors."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", _CAMERA])
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Tab:
    """A page in a browser, and what it did."""

    page: Any
    complaints: list[str] = field(default_factory=list)  # errors of scripts, and of the console
    requests: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, page: Any) -> "Tab":
        tab = cls(page)
        page.on("console", lambda said: tab.complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: tab.complaints.append(str(error)))
        page.on("request", lambda request: tab.requests.append(request.url))
        return tab

    def saved(self, button: str, folder: Path) -> Path:
        """The file that a button saves, in the folder."""
        with self.page.expect_download() as download:
            self.page.get_by_role("button", name=button, exact=True).click()
        path = folder / str(download.value.suggested_filename)
        download.value.save_as(path)
        return path

    @property
    def elsewhere(self) -> list[str]:
        """Requests that left the page's origin."""
        here = urlsplit(self.page.url)
        return [
            url for url in self.requests if (at := urlsplit(url)).scheme not in ("data", "blob") and at[:2] != here[:2]
        ]


@dataclass
class Proxy:
    """Stands before a server, and can be slow or broken."""

    address: str
    delay: float = 0.0  # seconds, before posts are passed on
    broken: tuple[int, str] | None = None  # status and text of the answer to a post, instead of the server's


@contextmanager
def proxy_before(server: str) -> Iterator[Proxy]:
    """A proxy before a server's address, on a free port of loopback."""

    class Passing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._pass_on(None)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            time.sleep(proxy.delay)
            if proxy.broken:
                status, text = proxy.broken
                self._answer(status, [("Content-Type", "text/html")], text.encode())
            else:
                self._pass_on(body)

        def _pass_on(self, body: bytes | None) -> None:
            names = ("Accept", "Content-Type", "Authorization")
            headers = {name: self.headers[name] for name in names if name in self.headers}
            request = urllib.request.Request(server + self.path, body, headers)
            try:
                answer = urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60)
            except urllib.error.HTTPError as error:
                answer = error
            with answer:
                kept = [(name, value) for name, value in answer.headers.items() if name.lower() in _KEPT]
                self._answer(answer.status, kept, answer.read())

        def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
            try:
                self.send_response(status)
                for name, value in [*headers, ("Content-Length", str(len(body)))]:
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)
            except OSError:  # the visitor has gone
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            """Writes nothing."""

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Passing)
    listening.daemon_threads = True
    proxy = Proxy(f"http://127.0.0.1:{listening.server_port}")
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()


_KEPT = {"content-type", "content-security-policy", "x-content-type-options", "referrer-policy", "cache-control"}

Visit = Callable[..., Tab]
