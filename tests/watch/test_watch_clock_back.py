"""A node whose clock is set back begins a run that is older by its id: it must not fall silent."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_watch_figures import SLOTS, T0, SetClock, feed, payloads, site

from collectors.contract.record import NodeRecord, Origin
from collectors.contract.wire import encode
from collectors.kit.sqlite_log import SqliteBus
from pipeline.api.frames import parse_frame
from pipeline.health import HealthBoard
from pipeline.watch.role import Watch, WatchOptions

_S = 1_000_000


def record(run: int, sequence: int, time_us: int, power_w: float) -> bytes:
    own = {"observed_us": [0, 0], "down_us": [0, 0], "active_us": [0, 0]}
    gauges = {"power_w": [power_w, power_w]}
    return encode(
        NodeRecord("a1", Origin.SIMULATED, run, sequence, time_us, 0, SLOTS, [0, 0], {**own, **gauges}, [])
    )  # fmt: skip


def power_kw(role: Watch, clock: SetClock) -> float:
    return parse_frame(payloads(role.messages())[b"frame"], clock.now_us).header["power_kw"]


@pytest.fixture
def watch(tmp_path: Path) -> tuple[Watch, SetClock]:
    clock = SetClock()
    bus = SqliteBus(tmp_path / "bus.db", clock=clock)
    return Watch(bus, site, WatchOptions(), clock, HealthBoard("watch", "t", clock)), clock


async def test_what_it_says_counts_once_the_run_before_is_silent(
    watch: tuple[Watch, SetClock],
) -> None:
    role, clock = watch
    feed(role, [record(9, 0, T0, 500.0)], T0)
    assert power_kw(role, clock) == 1.0
    for second in range(1, 9):
        clock.now_us = T0 + second * _S
        feed(role, [record(4, second, clock.now_us - 3_600 * _S, 300.0)], clock.now_us)
    assert power_kw(role, clock) == pytest.approx(0.6)


async def test_a_spool_that_drains_beside_fresh_records_says_nothing_of_now(
    watch: tuple[Watch, SetClock],
) -> None:
    role, clock = watch
    for second in range(9):
        clock.now_us = T0 + second * _S
        old = record(4, second, clock.now_us - 1_800 * _S, 300.0)
        feed(role, [record(9, second, clock.now_us, 500.0), old], clock.now_us)
    assert power_kw(role, clock) == 1.0
