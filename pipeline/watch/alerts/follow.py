"""The log followed second by second: fetches in, transitions and snapshots out, no I/O.

The same log gives the same transitions whatever the fetches were, and a life
that begins with a snapshot goes on exactly where the earlier one stood.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from collectors.contract.alerts import Alert, Incident
from collectors.contract.bus import Chunk, Partition
from collectors.contract.inventory import Inventory
from collectors.contract.tenants import NO_TENANTS, Tenants
from collectors.contract.topics import (
    ALLOC,
    EVENTS,
    FACILITY,
    GPU,
    LIVE,
    Allocation,
    Event,
    FacilityReading,
)
from collectors.kit.clock import Clock
from pipeline.decode.reader import Reader
from pipeline.decode.slots import SlotTable
from pipeline.decode.strips import strips
from pipeline.health import KEY_PREFIX, HealthBoard, parse_health
from pipeline.store.validate import TimeRules, Validator
from pipeline.watch.alerts import memory
from pipeline.watch.alerts.around import Told, Waiting
from pipeline.watch.alerts.buffer import LATE_US, SavedOffset
from pipeline.watch.alerts.core import Core, Folding, Physics
from pipeline.watch.alerts.fleet import WARM_S
from pipeline.watch.alerts.frontier import Frontier
from pipeline.watch.alerts.rules import Rule
from pipeline.watch.alerts.state import Saved
from pipeline.watch.layout import FleetLayout

MINUTE_S = 60
QUIET_S = 900
"""Where nothing has been heard for so long, one second a minute is evaluated."""
_WARM_MINUTES = WARM_S // MINUTE_S
_ANOTHER_TIME_US = 600_000_000
"""Boards are of life's own time; a log that is so far from it is a simulation's or a recording's."""
_READ: dict[str, Callable[[bytes], Told]] = {
    ALLOC: lambda value: msgspec.json.decode(value, type=Allocation),
    EVENTS: lambda value: msgspec.json.decode(value, type=Event),
    FACILITY: lambda value: msgspec.json.decode(value, type=FacilityReading),
}
TOPICS = (GPU, EVENTS, ALLOC, FACILITY, LIVE)


@dataclass(frozen=True)
class AlertOptions:
    """How the alerts work; `physics` and `folding` make the parts that are others', anew or from
    what they saved (empty: anew)."""

    rules: Sequence[Rule]
    prefix: str = ""
    time_rules: TimeRules = field(default_factory=TimeRules)
    from_start: bool = False
    """Without a snapshot: read the log from its beginning, instead of from now on."""
    physics: Callable[[FleetLayout, bytes], Physics] | None = None
    folding: Callable[[bytes], Folding] | None = None
    tenants: Callable[[], Tenants] = lambda: NO_TENANTS
    """The tenants file that holds now: whom alerts name, and what tenant rules are about."""
    fetch_records: int = 2_000


@dataclass(frozen=True, slots=True)
class _Mark:
    """How it was when a minute began."""

    second: int
    positions: Mapping[Partition, int]
    offsets: dict[str, SavedOffset] | None


class AlertLog:
    """One life of the alerts of one log."""

    def __init__(
        self,
        inventory: Callable[[], Inventory],
        options: AlertOptions,
        clock: Clock,
        board: HealthBoard,
        saved: Saved | None = None,
    ) -> None:
        self._inventory, self._options = inventory, options
        self._clock, self._board = clock, board
        self._prefix = options.prefix
        self._table = SlotTable()
        self.frontier = Frontier()
        self._waiting = {topic: Waiting() for topic in (ALLOC, EVENTS, FACILITY, LIVE)}
        self._marks: deque[_Mark] = deque(maxlen=_WARM_MINUTES + 1)
        self.done_s = 0
        """The last second that was evaluated."""
        self._warm_until_s = 0
        self._heard_s = 0
        self._core = self._made(clock.wall_us(), saved)
        wanted = self._core.fleet.wanted()
        self._reader = Reader(self._table, wanted)
        self._validator = Validator(options.time_rules, wanted)
        if saved is not None:
            self.done_s = saved.warm_from_us // 1_000_000
            self._warm_until_s = self._heard_s = saved.done_s
            self._core.buffer.done_s = self.done_s

    def _made(self, time_us: int, saved: Saved | None) -> Core:
        options = self._options
        inventory, self._names = self._inventory(), options.tenants()
        same = saved is not None and saved.layout_id == inventory.layout_id
        physics = options.physics
        learnt = saved.physics if saved is not None and same else b""
        core = Core(
            options.rules, inventory, time_us, self._table,
            None if physics is None else lambda layout: physics(layout, learnt),
            self._names,
        )  # fmt: skip
        if options.folding is not None:
            core.incidents = options.folding(b"" if saved is None else saved.incidents)
        if saved is not None:
            memory.remember(core, saved)
        return core

    @property
    def out_of_step(self) -> int:
        """Records of seconds that had been evaluated: none, unless a clock of the bus went back."""
        return self._core.buffer.after

    def begin(self, positions: Mapping[Partition, int], newest_us: int, now_us: int) -> None:
        """Where reading starts, and the newest bus time known (0: none)."""
        followed = {p: o for p, o in positions.items() if not p.topic.endswith(LIVE)}
        self.frontier.begin(followed)
        self._marks.append(
            _Mark(self.done_s, dict(positions), self._core.buffer.offsets.save(2**40))
        )
        if newest_us:
            self.frontier.resume(newest_us, now_us)

    def take_in(self, chunks: Sequence[Chunk], now_us: int) -> None:
        """Takes records in, whatever topic they are of; `now_us` is monotonic."""
        gpu = [chunk for chunk in chunks if chunk.partition.topic == self._prefix + GPU]
        for strip in strips(gpu):
            self._take_gpus(strip)
        for chunk in chunks:
            topic = chunk.partition.topic.removeprefix(self._prefix)
            if topic == LIVE:
                self._take_boards(chunk)
                continue
            self.frontier.note(chunk, now_us)
            if topic in _READ:
                broken = self._waiting[topic].put(chunk, _READ[topic])
                if broken:
                    self._board.add("alerts_refused", broken, topic=topic)

    def _take_gpus(self, strip: Sequence[Chunk]) -> None:
        values = [value for chunk in strip for value in chunk.values]
        bus_us = np.concatenate([np.asarray(chunk.bus_us, np.int64) for chunk in strip])
        groups = [
            self._validator.validate(group, bus_us[group.index])[0]
            for group in self._reader.read(values).groups
        ]
        self._core.buffer.put([group for group in groups if len(group)], bus_us)

    def _take_boards(self, chunk: Chunk) -> None:
        """Health boards alone: frames and details are of no concern here."""
        prefix = KEY_PREFIX.encode()
        rows = [at for at, key in enumerate(chunk.keys) if key.startswith(prefix)]
        if rows:
            boards = Chunk(
                chunk.partition,
                [chunk.offsets[at] for at in rows],
                [chunk.bus_us[at] for at in rows],
                [chunk.keys[at] for at in rows],
                [chunk.values[at] for at in rows],
            )
            self._waiting[LIVE].put(boards, parse_health)

    def advance(
        self, watermark_us: int, most: int = 20
    ) -> tuple[list[Alert], list[Incident], Saved | None, bool]:
        """Evaluates what can be, at most some seconds.

        Returns transitions, incidents, the snapshot that is due, and whether
        more can be evaluated at once.
        """
        alerts: list[Alert] = []
        incidents: list[Incident] = []
        for _ in range(most):
            second = self._next(watermark_us)
            if second is None:
                return alerts, incidents, None, False
            if second <= self._warm_until_s:
                self._core.warm(second)
            else:
                more, changed = self._core.second(second, self._due(second))
                alerts += more
                incidents += changed
            began, self.done_s = not self.done_s, second
            if self._core.fleet.fresh.any():
                self._heard_s = second
            if second == self._warm_until_s:
                # What was read twice on purpose is not out of step.
                self._core.buffer.after = 0
            if second % MINUTE_S == 0:
                self._mark(second)
            if (second % MINUTE_S == 0 or began) and second >= self._warm_until_s:
                return alerts, incidents, self._minute(second), True
        return alerts, incidents, None, True

    def _next(self, watermark_us: int) -> int | None:
        """The second whose turn it is; None while something of it may still come."""
        first = self._core.buffer.first_s
        if not self.done_s:
            second = first
        elif self.done_s - self._heard_s > QUIET_S and self.done_s >= self._warm_until_s:
            minute = (self.done_s // MINUTE_S + 1) * MINUTE_S
            # What comes within the minute is seen once the whole minute has been read.
            if watermark_us <= minute * 1_000_000 + LATE_US:
                return None
            second = minute if first is None else min(first, minute)
        else:
            second = self.done_s + 1
        over = second is not None and self._core.buffer.over(second, watermark_us)
        return second if over else None

    def ready(self, now_us: int) -> bool:
        """Whether a second may be over, as far as can be told without asking where the log ends."""
        return self._next(self.frontier.most_us(now_us)) is not None

    def _due(self, second: int) -> list[tuple[int, Told]]:
        """What became known of around the GPUs, allocations first."""
        time_us = second * 1_000_000
        out: list[tuple[int, Told]] = []
        for topic in (ALLOC, EVENTS, FACILITY):
            out += self._waiting[topic].due(time_us)
        strange = abs(self._clock.wall_us() - time_us) > _ANOTHER_TIME_US
        return out + self._waiting[LIVE].due(2**62 if strange else time_us)

    def _mark(self, second: int) -> None:
        offsets = self._core.buffer.offsets.save(second // MINUTE_S)
        positions = self.frontier.positions(second * 1_000_000)
        self._marks.append(_Mark(second, positions, offsets))

    def _minute(self, second: int) -> Saved | None:
        """A snapshot, where the log of two minutes before is known to lead here; and an inventory
        or a tenants file that has changed since is taken up."""
        self._count()
        oldest = self._marks[0]
        saved = None
        if second - oldest.second >= WARM_S and oldest.offsets is not None:
            saved = self._saved(oldest, second)
        moved = self._inventory().layout_id != self._core.layout_id
        if moved or self._options.tenants() != self._names:
            self._lay_out(saved or self._saved(oldest, second), second)
        return saved

    def _saved(self, mark: _Mark, second: int) -> Saved:
        return memory.saved_of(
            self._core, second, mark.positions, mark.second * 1_000_000, mark.offsets or {},
            self.frontier.newest_us,
        )  # fmt: skip

    def _lay_out(self, saved: Saved, second: int) -> None:
        """Goes on with another inventory: what is open of places that stay stays open."""
        before = self._core
        self._core = self._made(second * 1_000_000, saved)
        self._core.buffer, self._core.boards = before.buffer, before.boards
        self._board.add("alerts_layouts")

    def _count(self) -> None:
        buffer, board = self._core.buffer, self._board
        board.set("alerts_late", buffer.late)
        board.set("alerts_out_of_step", self.out_of_step)
        board.set("alerts_waiting_dropped", sum(one.dropped for one in self._waiting.values()))
        board.set("alerts_open", sum(len(one.index) for one in self._core.engine.open.values()))
