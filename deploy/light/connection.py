"""A client's connection, whose time is bounded."""

from resource import RLIMIT_NOFILE, getrlimit
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from deploy.light import limits
from handler.protocol.answer import refusal

_ON_ITS_WAY = 1.0  # seconds after SIGTERM in which requests of open connections are answered
_CLOSING = (b"connection", b"close")


class Connection(H11Protocol):
    """Closes connections whose clients take too long, and answers what is no HTTP as other errors."""

    def connection_made(self, transport: Any) -> None:
        """See ``asyncio.Protocol.connection_made``; with half of the process's descriptors in use, it is closed."""
        super().connection_made(transport)
        if 2 * len(self.connections) > getrlimit(RLIMIT_NOFILE)[0]:
            transport.abort()
        self._next_look = self.loop.call_later(limits.SLOWEST, self._look, None)

    def connection_lost(self, exc: Exception | None) -> None:
        """See ``asyncio.Protocol.connection_lost``."""
        self._next_look.cancel()  # which would keep the connection's bodies in memory
        super().connection_lost(exc)

    def _look(self, before: Any) -> None:
        """Closes the connection if it has no new request since ``before``, or the client reads no further."""
        rests = before is None or before.response_complete or self.flow.write_paused
        if self.cycle is before and rests:
            self.transport.abort()
        else:
            self._next_look = self.loop.call_later(limits.SLOWEST, self._look, self.cycle)

    def shutdown(self) -> None:
        """Closes the connection a moment later, so that a request on its way is answered."""
        if _CLOSING not in self.server_state.default_headers:
            self.server_state.default_headers = [*self.server_state.default_headers, _CLOSING]
        close = super().shutdown
        self.loop.call_later(_ON_ITS_WAY, lambda: None if self.transport.is_closing() else close())

    def send_400_response(self, msg: str) -> None:
        """Answers what cannot be read as HTTP, and closes the connection."""
        body = refusal(400, "BadRequest", msg).body
        head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close"
        self.transport.write(f"HTTP/1.1 400 Bad Request\r\n{head}\r\n\r\n".encode() + body)
        self.transport.close()
