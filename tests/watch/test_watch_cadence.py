"""A node that speaks seldom is not silent in between, and is once it misses two turns."""

from __future__ import annotations

import json
from pathlib import Path

from collectors.contract.bus import Chunk, Partition
from collectors.contract.identity import Slot, pack_slot
from collectors.contract.inventory import InstalledNode, Inventory
from collectors.contract.record import NodeRecord, Origin
from collectors.contract.wire import encode
from collectors.kit.sqlite_log import SqliteBus
from pipeline.health import HealthBoard
from pipeline.watch.role import Watch, WatchOptions

T0 = 1_790_000_000_000_000
SLOT = pack_slot(Slot(0, 1, 0, 0))
S = 1_000_000


class SetClock:
    """A clock that a test sets."""

    now_us = T0

    def wall_us(self) -> int:
        return self.now_us

    def monotonic_us(self) -> int:
        return self.now_us

    async def sleep(self, seconds: float) -> None:
        self.now_us += int(seconds * S)


def site() -> Inventory:
    nodes = tuple(
        InstalledNode(name, "A", "r1", "H800-SXM", (SLOT,), 0.9894) for name in ("seldom", "often")
    )
    return Inventory("s", "Site", "UTC", "fp16", "dense", "boost", nodes)


def record(node: str, second: int) -> bytes:
    values = {name: [second * S] for name in ("observed_us", "active_us")}
    return encode(
        NodeRecord(node, Origin.MEASURED, 5, second, T0 + second * S, 0, [SLOT], [0], values)
    )


async def test_each_by_its_own_cadence(tmp_path: Path) -> None:
    clock = SetClock()
    bus = SqliteBus(tmp_path / "bus.db", clock=clock)
    watch = Watch(bus, site, WatchOptions(), clock, HealthBoard("watch", "t", clock))
    missing: dict[int, list[str]] = {}
    for second in range(160):
        clock.now_us = T0 + second * S
        values = [record("seldom", second)] if second % 15 == 0 and second <= 90 else []
        values += [record("often", second)] if second <= 120 else []
        if values:
            size, at_us = len(values), [clock.now_us] * len(values)
            watch.take_in([Chunk(Partition("t", 0), range(size), at_us, [b""] * size, values)])
        for message in watch.messages():
            if message.key == b"detail":
                missing[second] = json.loads(message.value)["nodes_missing"]
    assert all("seldom" not in names for second, names in missing.items() if 15 <= second <= 127)
    assert all("seldom" in names for second, names in missing.items() if second >= 128)
    assert all("often" in names for second, names in missing.items() if second >= 126)
    assert all("often" not in names for second, names in missing.items() if second < 125)
