"""GPUs that the inventory lacks are told in the log, once per node, with what to write."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from collectors.contract.bus import Chunk, Partition
from collectors.contract.identity import Slot, pack_slot
from collectors.contract.inventory import InstalledNode, Inventory
from collectors.contract.record import NodeRecord, Origin
from collectors.contract.wire import encode
from collectors.kit.clock import SystemClock
from collectors.kit.sqlite_log import SqliteBus
from pipeline.health import HealthBoard
from pipeline.watch.role import Watch, WatchOptions

LISTED, MADE_UP, REAL, PART = (
    pack_slot(Slot(0, *place))
    for place in ((0x43, 0, 0), (0x01, 0, 0), (0x1B, 0, 0), (0x43, 0, 0, 1, 0))
)


def site(*slots: int) -> Inventory:
    nodes = (InstalledNode("a1", "A", "r1", "H800-SXM", slots, 0.9894),)
    return Inventory("s", "Site", "UTC", "FP16", "dense", "boost", nodes)


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Watch, list[Inventory]]:
    """A watch, and the inventory that it is to hold for true: the last of the list."""
    clock, holds = SystemClock(), [site(MADE_UP, LISTED)]
    bus = SqliteBus(tmp_path_factory.mktemp("bus") / "bus.db", clock=clock)
    board = HealthBoard("watch", "t", clock)
    return Watch(bus, lambda: holds[-1], WatchOptions(), clock, board), holds


def send(watch: Watch, node: str, *slots: int) -> None:
    """A record of now, and the frame after it."""
    now_us = SystemClock().wall_us()
    values = {"observed_us": [now_us] * len(slots)}
    record = NodeRecord(node, Origin.MEASURED, 5, 0, now_us, 0, slots, [0] * len(slots), values)
    watch.take_in([Chunk(Partition("t", 0), [0], [now_us], [b""], [encode(record)])])
    watch.messages()


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    def take() -> list[str]:
        said = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
        caplog.clear()
        return said

    return take


def test_once_per_node_with_the_line_that_fits(
    world: tuple[Watch, list[Inventory]], warned: Callable[[], list[str]]
) -> None:
    watch, holds = world
    send(watch, "a1", LISTED, REAL, PART)
    [said] = warned()
    assert said.startswith("gpus_unknown node=a1 gpus=1 ")
    assert 'write slots = ["0000:1b:00.0", "0000:43:00.0"]' in said
    send(watch, "a1", LISTED, REAL, PART)
    assert warned() == []
    send(watch, "b1", REAL)
    [said] = warned()
    assert said.startswith("gpus_unknown node=b1 gpus=1 the node is not in the inventory")
    holds.append(site(MADE_UP, LISTED, pack_slot(Slot(0, 0xFF, 0, 0))))
    send(watch, "a1", LISTED, REAL, PART)
    assert warned() == []
    send(watch, "a1", LISTED, REAL, pack_slot(Slot(0, 0x52, 0, 0)))
    assert warned()[0].startswith("gpus_unknown node=a1 gpus=2 ")


def test_nothing_is_said_where_all_fits(
    world: tuple[Watch, list[Inventory]], warned: Callable[[], list[str]]
) -> None:
    watch, holds = world
    send(watch, "a1", LISTED, PART)
    holds.append(site(LISTED, REAL))
    send(watch, "a1", LISTED, REAL)
    assert warned() == []
