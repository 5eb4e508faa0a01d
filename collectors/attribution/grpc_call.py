"""One unary gRPC call over a Unix socket, blocking, with a deadline.

grpcio would do it too, at 27 MB of memory against the 5 MB of h2; h2 is
imported by this module alone, and this module only where there is a kubelet.
"""

from __future__ import annotations

import socket
from pathlib import Path

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import H2Error

from collectors.attribution.call_error import CallError
from collectors.kit.clock import Clock

_CHUNK_BYTES = 65_536
_PREFIX_BYTES = 5
"""Of a message: a flag for compression, and its length in four bytes."""


class _Answer:
    """What of an answer has come."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self.data = bytearray()
        self.headers: dict[bytes, bytes] = {}
        self.ended = False

    def take(self, event: Event) -> None:
        """Raises CallError where the peer gives up or says too much."""
        if isinstance(event, DataReceived):
            self.data += event.data or b""
            if len(self.data) > self._limit_bytes + _PREFIX_BYTES:
                raise CallError(f"the answer is larger than {self._limit_bytes} bytes")
        elif isinstance(event, ResponseReceived | TrailersReceived):
            self.headers.update((bytes(name), bytes(value)) for name, value in event.headers or ())
        elif isinstance(event, StreamEnded):
            self.ended = True
        elif isinstance(event, StreamReset | ConnectionTerminated):
            raise CallError(f"the call was broken off (HTTP/2 error {event.error_code})")

    def message(self) -> bytes:
        """The message of the ended answer.  Raises CallError."""
        status = self.headers.get(b":status", b"?").decode()
        code = self.headers.get(b"grpc-status", b"?").decode()
        if status != "200" or code != "0":
            text = self.headers.get(b"grpc-message", b"").decode("utf-8", "replace")
            raise CallError(f"refused: gRPC status {code}, HTTP {status} {text}"[:300].rstrip())
        prefix, message = self.data[:_PREFIX_BYTES], bytes(self.data[_PREFIX_BYTES:])
        if len(prefix) < _PREFIX_BYTES or int.from_bytes(prefix[1:]) != len(message):
            raise CallError(f"half an answer: {len(message)} bytes")
        if prefix[0]:
            raise CallError("the answer is compressed, which was not asked for")
        return message


def call(
    path: Path,
    method: str,
    request: bytes,
    *,
    clock: Clock,
    timeout_s: float,
    limit_bytes: int = 16 * 2**20,
) -> bytes:
    """The answer to a request, both as protobuf.

    `method` is `/package.Service/Method`.  Raises CallError; within the time, whatever the
    peer does.  The limit is that of the kubelet's own client.
    """
    deadline_us = clock.monotonic_us() + int(timeout_s * 1e6)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        try:
            link.settimeout(timeout_s)
            link.connect(str(path))
            peer = H2Connection(H2Configuration(client_side=True))
            _ask(peer, link, method, request, timeout_s)
            answer = _Answer(limit_bytes)
            while not answer.ended:
                _receive(peer, link, answer, clock, deadline_us)
            return answer.message()
        except (OSError, H2Error) as error:
            raise CallError(f"{type(error).__name__}: {error}") from error


def _ask(
    peer: H2Connection, link: socket.socket, method: str, request: bytes, timeout_s: float
) -> None:
    peer.initiate_connection()
    stream = peer.get_next_available_stream_id()
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": method,
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
        "grpc-timeout": f"{max(1, int(timeout_s * 1e3))}m",
    }
    peer.send_headers(stream, list(headers.items()))
    peer.send_data(stream, b"\0" + len(request).to_bytes(4) + request, end_stream=True)
    link.sendall(peer.data_to_send())


def _receive(
    peer: H2Connection, link: socket.socket, answer: _Answer, clock: Clock, deadline_us: int
) -> None:
    left_s = (deadline_us - clock.monotonic_us()) / 1e6
    if left_s <= 0:
        raise CallError("no answer in time")
    link.settimeout(left_s)
    data = link.recv(_CHUNK_BYTES)
    if not data:
        raise CallError("the peer closed before it had answered")
    for event in peer.receive_data(data):
        answer.take(event)
        if isinstance(event, DataReceived):
            peer.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id)
    link.sendall(peer.data_to_send())
