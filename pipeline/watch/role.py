"""The `watch` role: all partitions, one process, one frame a second."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from collectors.contract.bus import (
    Bus,
    BusUnavailableError,
    Chunk,
    Consumer,
    Message,
    Producer,
    RefusedError,
)
from collectors.contract.inventory import Inventory
from collectors.contract.record import SlotLabels
from collectors.contract.tenants import NO_TENANTS, Tenants
from collectors.contract.topics import ALLOC, GPU, LIVE, Allocation
from collectors.kit.clock import Clock
from pipeline.books.claim_index import ClaimIndex
from pipeline.decode.batch import Group, Wanted
from pipeline.decode.reader import Reader
from pipeline.decode.slots import SlotTable
from pipeline.decode.strips import strips
from pipeline.health import HealthBoard
from pipeline.store.validate import TimeRules, Validator
from pipeline.watch.figures import moment_of
from pipeline.watch.frame import encode_frame
from pipeline.watch.layout import FleetLayout
from pipeline.watch.lead import Lead
from pipeline.watch.snapshot import Snapshot
from pipeline.watch.state import GAUGES, RATES, FleetState
from pipeline.watch.strangers import Strangers

_log = logging.getLogger(__name__)
_LABELS_EVERY = 30
GROUP = "petawatch-watch"


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """How the watch works."""

    prefix: str = ""
    frame_s: float = 1.0
    missing_after_s: float = 5.0
    show_estimates: bool = False
    rules: TimeRules = field(default_factory=TimeRules)


class Watch:
    """Live figures from the log.

    Of several one publishes (`Lead`); the others know as much, and keep it to themselves.
    `inventory` gives the inventory that holds now; a new layout of it starts
    the state anew.
    """

    def __init__(
        self,
        bus: Bus,
        inventory: Callable[[], Inventory],
        options: WatchOptions,
        clock: Clock,
        board: HealthBoard,
        tenants: Callable[[], Tenants] = lambda: NO_TENANTS,
    ) -> None:
        """`tenants` gives the tenants file that holds now."""
        self._bus = bus
        self._tenants = tenants
        self._inventory = inventory
        self._options = options
        self._clock = clock
        self._board = board
        self._lead = Lead(bus, options.prefix + LIVE, options.prefix + GROUP, clock, board)
        self._table = SlotTable()
        wanted = Wanted.of(GAUGES, RATES)
        self._reader = Reader(self._table, wanted)
        self._validator = Validator(options.rules, wanted)
        self._allocations: dict[bytes, Allocation] = {}
        self._labels: dict[str, tuple[SlotLabels, ...]] = {}
        self._labels_changed: set[str] = set()
        self._strangers = Strangers()
        self._frames = 0
        self._newest_us = 0
        self._bus_us = 0
        self._bus_seen_us = clock.monotonic_us()
        self._laid: tuple[Inventory, int] | None = None
        """The inventory of the layout, and until when it is as it is."""
        self._named: Tenants | None = None
        self._lay_out()

    def _lay_out(self) -> None:
        """Begins anew where what is installed is another thing than before; owners also where the
        tenants file is."""
        inventory, tenants = self._inventory(), self._tenants()
        now_us = self._newest_us or self._clock.wall_us()
        if self._laid is None or self._laid[0] != inventory or now_us >= self._laid[1]:
            self._laid = inventory, inventory.changes_after(now_us)
            self._state = FleetState(FleetLayout.of(inventory, now_us), self._table)
        elif tenants is self._named:
            return
        self._named = tenants
        self._claims = ClaimIndex(self._state.layout.places, tenants)
        for allocation in self._allocations.values():
            self._claims.apply(allocation)

    async def run(self, stop: asyncio.Event) -> None:
        """Works until `stop`."""
        prefix = self._options.prefix
        gpu = self._bus.consumer([prefix + GPU], None, latest=True)
        alloc = self._bus.consumer([prefix + ALLOC], None)
        producer = self._bus.producer()
        started: list[Any] = []
        leading = asyncio.create_task(self._lead.run())
        try:
            for part in (gpu, alloc, producer):
                await self._start(part, stop)
                started.append(part)
            due_us = self._clock.monotonic_us()
            while not stop.is_set():
                wait_s = (due_us - self._clock.monotonic_us()) / 1e6
                await self._gather(gpu, alloc, max(0.0, wait_s))
                if self._clock.monotonic_us() >= due_us:
                    due_us += int(self._options.frame_s * 1e6)
                    due_us = max(due_us, self._clock.monotonic_us())
                    messages = self.messages()
                    if self._lead.holds:
                        await self._publish(messages, producer)
                if leading.done():
                    leading.result()
        finally:
            leading.cancel()
            with suppress(asyncio.CancelledError):
                await leading
            for part in started:
                await part.stop()

    async def _start(self, part: Any, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                await part.start()
            except BusUnavailableError:
                self._board.add("bus_unavailable")
                await self._clock.sleep(1.0)
            else:
                return

    async def _gather(self, gpu: Consumer, alloc: Consumer, wait_s: float) -> None:
        try:
            self.learn(await alloc.fetch(0.0))
            self.take_in(await gpu.fetch(wait_s))
        except BusUnavailableError:
            self._board.add("bus_unavailable")
            await self._clock.sleep(0.5)

    def learn(self, chunks: Sequence[Chunk]) -> None:
        """Takes allocation records in."""
        for chunk in chunks:
            for value in chunk.values:
                try:
                    allocation = msgspec.json.decode(value, type=Allocation)
                    self._claims.apply(allocation)
                except (msgspec.DecodeError, msgspec.ValidationError, ValueError) as error:
                    self._board.add("allocations_refused")
                    _log.warning("allocation_refused reason=%s", error)
                else:
                    self._allocations[allocation.key] = allocation

    def take_in(self, chunks: Sequence[Chunk]) -> int:
        """Takes GPU records in; returns the number of GPU-samples that count."""
        samples = sum(self._take_in(strip) for strip in strips(chunks))
        self._board.add("gpu_samples", samples)
        return samples

    def _take_in(self, chunks: Sequence[Chunk]) -> int:
        values = [value for chunk in chunks for value in chunk.values]
        bus_us = np.concatenate([np.asarray(chunk.bus_us, np.int64) for chunk in chunks])
        decoded = self._reader.read(values)
        samples = 0
        for group in decoded.groups:
            kept, _ = self._validator.validate(group, bus_us[group.index])
            if len(kept):
                self._state.update(kept, bus_us[kept.index])
                self._newest_us = max(self._newest_us, int(kept.time_us.max()))
                samples += len(kept) * kept.slots
        for index, labels in decoded.labels:
            self._note_labels(index, labels.read(), decoded.groups)
        newest = int(bus_us.max())
        if newest > self._bus_us:
            self._bus_us, self._bus_seen_us = newest, self._clock.monotonic_us()
        return samples

    def _note_labels(
        self, index: int, labels: tuple[SlotLabels, ...], groups: Sequence[Group]
    ) -> None:
        for group in groups:
            for row in np.flatnonzero(group.index == index):
                node = self._table.nodes[self._table.place_node[int(group.place[row])]]
                installed = node in self._state.layout.node_names
                if installed and self._labels.get(node) != labels:
                    self._labels[node] = labels
                    self._labels_changed.add(node)

    def messages(self) -> list[Message]:
        """What goes out now: frame, detail, and labels that changed; nothing before the first record."""
        self._frames += 1
        self._lay_out()
        if not self._newest_us:
            return []
        state, options = self._state, self._options
        now_bus_us = self._bus_us + self._clock.monotonic_us() - self._bus_seen_us
        owner = self._claims.owners_at(self._newest_us)
        moment = moment_of(
            state,
            owner,
            now_bus_us,
            int(options.missing_after_s * 1e6),
            show_estimates=options.show_estimates,
        )
        snapshot = Snapshot(moment, state.layout, self._claims.tenants, self._newest_us)
        lag_s = (now_bus_us - self._newest_us) / 1e6
        header = snapshot.header(self._frames, lag_s, state.usual_gap_us(moment.reporting))
        payloads = {
            b"frame": encode_frame(header, snapshot.columns()),
            b"detail": msgspec.json.encode(snapshot.detail(header)),
        }
        if self._frames % _LABELS_EVERY == 1:
            self._labels_changed.update(self._labels)
        if self._labels_changed:
            changed = {node: self._labels[node] for node in self._labels_changed}
            payloads[b"labels"] = msgspec.json.encode(changed)
            self._labels_changed.clear()
        self._board.set("gpus_unknown", len(state.unknown))
        self._strangers.look(state)
        topic = options.prefix + LIVE
        return [Message(topic, key, value) for key, value in payloads.items()]

    async def _publish(self, messages: Sequence[Message], producer: Producer) -> None:
        """Sends a frame; one that cannot be sent now is worth nothing later, and is counted."""
        if not messages:
            return
        try:
            await producer.send(messages)
        except (BusUnavailableError, RefusedError) as error:
            self._board.add("frames_unsent")
            _log.warning("frame_unsent reason=%s", error)
        else:
            self._board.add("frames")
