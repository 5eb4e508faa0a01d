"""The agent's own `/metrics` and `/healthz`: Prometheus text over a few lines of HTTP/1.1."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

_log = logging.getLogger(__name__)
_TIMEOUT_S = 1.0
_MOST_BYTES = 8_192
_MOST_AT_ONCE = 16
_PAGE = "text/plain; version=0.0.4; charset=utf-8"


class Family(NamedTuple):
    """One metric: its name, what it is, and values by labels."""

    name: str
    help: str
    values: Sequence[tuple[Mapping[str, str], float]]

    @property
    def kind(self) -> str:
        """By Prometheus' rule of names."""
        return "counter" if self.name.endswith("_total") else "gauge"


def single(name: str, text: str, value: float) -> Family:
    """A metric without labels."""
    return Family(name, text, [({}, value)])


def exposition(families: Iterable[Family]) -> str:
    """Prometheus' text format, version 0.0.4."""
    lines: list[str] = []
    for family in families:
        lines += [f"# HELP {family.name} {family.help}", f"# TYPE {family.name} {family.kind}"]
        lines += [f"{family.name}{_labels(labels)} {value}" for labels, value in family.values]
    return "\n".join([*lines, ""])


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(text)}"' for name, text in labels.items()) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


@dataclass(slots=True)
class MetricsServer:
    """Answers GET /metrics with `page()` and GET /healthz with `healthy()`; nothing else.

    A request has a second and 8 KiB; sixteen are answered at a time.
    """

    page: Callable[[], str]
    healthy: Callable[[], bool]
    _server: asyncio.Server | None = field(default=None)
    _open: int = 0

    async def start(self, host: str, port: int) -> str:
        """Listens; returns the address, or "" where it could not: readings go on without."""
        try:
            self._server = await asyncio.start_server(self._answer, host, port, limit=_MOST_BYTES)
        except OSError as error:
            _log.warning(
                "metrics_not_served host=%s port=%d reason=%s: choose another metrics_port, or 0",
                host, port, error.strerror or error,
            )  # fmt: skip
            return ""
        address = self._server.sockets[0].getsockname()
        return f"http://{address[0]}:{address[1]}/metrics"

    async def stop(self) -> None:
        """Closes the port."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
            await server.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= _MOST_AT_ONCE:
                async with asyncio.timeout(_TIMEOUT_S):
                    request = await reader.readuntil(b"\r\n\r\n")
                    writer.write(self._response(request.partition(b"\r\n")[0]))
                    await writer.drain()
        except (TimeoutError, ValueError, OSError, EOFError, asyncio.LimitOverrunError):
            pass  # nobody who asks in such a way waits for an answer
        finally:
            self._open -= 1
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    def _response(self, request: bytes) -> bytes:
        method, _, rest = request.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if method not in {b"GET", b"HEAD"}:
            return _http("405 Method Not Allowed", "GET only\n", extra="Allow: GET, HEAD\r\n")
        if path == b"/metrics":
            body, status, kind = self.page(), "200 OK", _PAGE
        elif path == b"/healthz":
            well = self.healthy()
            body = "ok\n" if well else "no tick has ended for a while\n"
            status, kind = "200 OK" if well else "503 Service Unavailable", "text/plain"
        else:
            body, status, kind = "there is /metrics and /healthz\n", "404 Not Found", "text/plain"
        return _http(status, body, kind=kind, head=method == b"HEAD")


def _http(
    status: str, body: str, *, kind: str = "text/plain", extra: str = "", head: bool = False
) -> bytes:
    data = body.encode()
    header = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n"
        f"{extra}Connection: close\r\n\r\n"
    )
    return header.encode() + (b"" if head else data)
