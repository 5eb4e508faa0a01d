"""The live hub: reads what `watch` publishes and pushes each frame, as it is, to all viewers.

A viewer costs one small queue.  One that does not keep up skips frames, which
is counted, and never holds another up.  An absent bus costs freshness alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from collectors.contract.bus import Bus, Chunk, Consumer, Partition
from collectors.contract.record import SlotLabels
from collectors.kit.clock import Clock
from pipeline.api.auth import Session
from pipeline.api.follow import TopicFollower
from pipeline.api.frames import BrokenFrameError, Frame, parse_frame
from pipeline.api.history import History
from pipeline.health import KEY_PREFIX, HealthBoard, HealthRecord, parse_health

STALE_S, DOWN_S = 2.5, 15.0
_STALE_GAPS, _DOWN_GAPS, _LONGEST_GAP_S = 1.5, 2.5, 60.0
"""In gaps between records: what is read through an exporter comes every 15 s, say."""
HEALTH_KEEP_S = 60.0
DEPTH = 2
_AT_ONCE = 100
"""Records of one fetch: 15 minutes of history with its details are some 50 MB."""
FRAME_KEY, DETAIL_KEY, LABELS_KEY = b"frame", b"detail", b"labels"
_GOING_AWAY, _SESSION_ENDED = 1001, 4401
_log = logging.getLogger(__name__)


class Viewer:
    """One socket: its queue of at most 2 frames, and whose session it is."""

    def __init__(self, session: Session | None) -> None:
        self.session = session
        self.close_code: int | None = None
        self._frames: deque[bytes] = deque(maxlen=DEPTH)
        self._ready = asyncio.Event()

    def offer(self, payload: bytes) -> bool:
        """Queues a frame; False when an older one had to go for it."""
        kept = len(self._frames) < DEPTH
        self._frames.append(payload)
        self._ready.set()
        return kept

    @property
    def waiting(self) -> tuple[bytes, ...]:
        """Frames not sent yet."""
        return tuple(self._frames)

    def close(self, code: int) -> None:
        """Ends the socket after what it is sending now."""
        self.close_code = code
        self._ready.set()

    async def send_to(self, socket: WebSocket) -> None:
        """Sends what is queued until the viewer is closed."""
        while True:
            await self._ready.wait()
            self._ready.clear()
            while self._frames and self.close_code is None:
                await socket.send_bytes(self._frames.popleft())
            if self.close_code is not None:
                await socket.close(self.close_code)
                return


class LiveHub:
    """The newest frame, detail, labels and health of every role, and who is looking.

    `topic` is `petawatch.live` behind its prefix.  Counts on `board`:
    `live_frames`, `live_broken`, `live_skipped`, `live_bus_errors`, and the
    gauge `live_viewers`.
    """

    def __init__(
        self,
        bus: Bus,
        topic: str,
        clock: Clock,
        board: HealthBoard,
        *,
        history_minutes: float = 15.0,
    ) -> None:
        self._follower = TopicFollower(bus, [topic], clock, board, name="live", at_once=_AT_ONCE)
        self._clock = clock
        self._board = board
        self._back_us = int(history_minutes * 60e6)
        self._next: dict[Partition, int] = {}
        self._viewers: set[Viewer] = set()
        self._health: dict[bytes, tuple[int, HealthRecord]] = {}
        self._detail: bytes | None = None
        self._parsed: tuple[bytes | None, Mapping[str, Any]] = (None, {})
        self._previous: Frame | None = None
        self._fresh_us = 0
        self._stopping = False
        self.frame: Frame | None = None
        self.labels: dict[str, tuple[SlotLabels, ...]] = {}
        self.history = History()

    async def run(self) -> None:
        """Follows the topic until `stop`; an absent bus is tried again each second."""
        await self._follower.run(self._position, self.take)

    async def _position(self, consumer: Consumer) -> None:
        """Goes on where it was, or at the first go back by the history's length."""
        ends = await consumer.end_offsets()
        for partition in consumer.assigned:
            reached = self._next.get(partition)
            if reached is not None and reached <= ends[partition]:
                await consumer.seek(partition, reached)
            else:
                await consumer.seek_time(partition, self._clock.wall_us() - self._back_us)

    def take(self, chunks: Sequence[Chunk]) -> None:
        """Takes in fetched records and pushes the newest frame among them."""
        before = self.frame
        for chunk in chunks:
            for key, value, bus_us in zip(chunk.keys, chunk.values, chunk.bus_us, strict=True):
                try:
                    self._take_one(key, value, bus_us)
                except (BrokenFrameError, msgspec.MsgspecError) as error:
                    self._board.add("live_broken")
                    _log.warning("live_record_broken key=%r error=%s", key, error)
            self._next[chunk.partition] = chunk.next_offset
        if self.frame is not None and self.frame is not before:
            self.push(self.frame.payload)
        elif not chunks:
            self._drop_ended()

    def _take_one(self, key: bytes, value: bytes, bus_us: int) -> None:
        if key == FRAME_KEY:
            frame = parse_frame(value, bus_us)
            if self.frame is None or frame.time_us != self.frame.time_us:
                self._fresh_us = bus_us
            self._previous, self.frame = self.frame, frame
            self.history.add(frame.header)
            self._board.add("live_frames")
        elif key == DETAIL_KEY:
            self._detail = value
        elif key == LABELS_KEY:
            decoded = msgspec.json.decode(value, type=dict[str, tuple[SlotLabels, ...]])
            self.labels.update(decoded)
        elif key.startswith(KEY_PREFIX.encode()):
            self._health[key] = (bus_us, parse_health(value))

    def push(self, payload: bytes) -> None:
        """Queues a frame for every viewer."""
        self._drop_ended()
        for viewer in self._viewers:
            if not viewer.offer(payload):
                self._board.add("live_skipped")

    def _drop_ended(self) -> None:
        now_us = self._clock.monotonic_us()
        for viewer in self._viewers:
            if viewer.session is not None and not viewer.session.valid(now_us):
                viewer.close(_SESSION_ENDED)

    def session_ended(self) -> None:
        """Closes, at once, the sockets of sessions that have ended."""
        self._drop_ended()

    async def serve(self, socket: WebSocket, session: Session | None) -> None:
        """Serves one viewer until it goes, its session ends, or the hub stops."""
        await socket.accept()
        viewer = Viewer(session)
        self._viewers.add(viewer)
        self._board.set("live_viewers", len(self._viewers))
        if self._stopping:
            viewer.close(_GOING_AWAY)
        elif self.frame is not None:
            viewer.offer(self.frame.payload)
        sender = asyncio.create_task(_send(viewer, socket))
        try:
            while socket.client_state is WebSocketState.CONNECTED:
                # What viewers say is of no interest, but only reading shows that one has gone.
                if (await socket.receive())["type"] == "websocket.disconnect":
                    break
        finally:
            self._viewers.discard(viewer)
            self._board.set("live_viewers", len(self._viewers))
            sender.cancel()

    def stop(self) -> None:
        """Sends all viewers away and ends `run` within a second."""
        self._stopping = True
        self._follower.stop()
        for viewer in self._viewers:
            viewer.close(_GOING_AWAY)

    @property
    def viewers(self) -> int:
        """Sockets open now."""
        return len(self._viewers)

    def detail(self) -> Mapping[str, Any]:
        """The newest detail: sums of all tenants, racks, halls and nodes; empty before the first."""
        if self._parsed[0] is not self._detail:
            parsed: dict[str, Any] = {}
            with suppress(msgspec.MsgspecError):
                parsed = msgspec.json.decode(self._detail or b"{}", type=dict[str, Any])
            self._parsed = (self._detail, parsed)
        return self._parsed[1]

    def header(self) -> Mapping[str, Any] | None:
        """The header of the newest frame, or of the one before where the detail is still of that."""
        frames = [frame for frame in (self.frame, self._previous) if frame is not None]
        time_us = self.detail().get("time_us")
        fitting = [frame.header for frame in frames if frame.time_us == time_us]
        return (fitting or [frame.header for frame in frames] or [None])[0]

    def arrival_age_s(self) -> float | None:
        """Seconds since the bus took the first frame of the newest event time.

        `watch` goes on publishing when nothing comes in any more: such frames are not news.
        """
        if self.frame is None:
            return None
        return max(0.0, (self._clock.wall_us() - self._fresh_us) / 1e6)

    def age_s(self) -> float | None:
        """Seconds since the newest figures were true.

        Simulations and recordings keep a time of their own, so theirs count
        from arrival; a measurement is as old as its event time too.
        """
        arrival_s = self.arrival_age_s()
        if self.frame is None or arrival_s is None:
            return None
        if self.frame.header.get("origin") != "measured":
            return arrival_s
        return max(arrival_s, (self._clock.wall_us() - self.frame.time_us) / 1e6)

    def state(self) -> str:
        """`starting`, `live`, `partial`, `stale` (after 2.5 s) or `down` (after 15 s); both
        later where the GPUs that report do so less often."""
        age_s = self.age_s()
        if self.frame is None or age_s is None:
            return "starting"
        header = self.frame.header
        gap_s = min(header.get("gap_s") or 0.0, _LONGEST_GAP_S)
        if age_s >= max(DOWN_S, _DOWN_GAPS * gap_s):
            return "down"
        if age_s >= max(STALE_S, _STALE_GAPS * gap_s + 1):
            return "stale"
        reporting, installed = header.get("gpus_reporting", 0), header.get("gpus_installed", 0)
        return "live" if reporting >= installed else "partial"

    def now_us(self) -> int | None:
        """Event time now: the newest frame's, moved on by the time since it arrived."""
        if self.frame is None:
            return None
        return self.frame.time_us + int((self.arrival_age_s() or 0.0) * 1e6)

    def health(self) -> list[HealthRecord]:
        """This process's board, and the newest of each other that has spoken in the last 60 s."""
        oldest_us = self._clock.wall_us() - int(HEALTH_KEEP_S * 1e6)
        self._health = {k: v for k, v in self._health.items() if v[0] >= oldest_us}
        own = self._board.record()
        return [own, *(record for key, (_, record) in self._health.items() if key != own.key)]


async def _send(viewer: Viewer, socket: WebSocket) -> None:
    # A socket that breaks while it is sent to is found by its reader as well.
    with suppress(WebSocketDisconnect, RuntimeError):
        await viewer.send_to(socket)
