"""Live figures against cases counted by hand, through the real reader and frame."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence

import numpy as np
import pytest

from collectors.contract.bus import Chunk, Message, Partition
from collectors.contract.catalogue import COUNTER_ABSENT
from collectors.contract.identity import Slot, pack_slot
from collectors.contract.inventory import InstalledNode, Inventory
from collectors.contract.record import NodeRecord, Origin, SlotLabels
from collectors.contract.topics import Allocation, Subject, dumps
from collectors.contract.wire import encode, parse
from collectors.kit.sqlite_log import SqliteBus
from pipeline.api.frames import parse_frame
from pipeline.health import HealthBoard
from pipeline.watch.frame import quantize
from pipeline.watch.role import Watch, WatchOptions

T0 = 1_790_000_000_000_000
SLOTS = tuple(pack_slot(Slot(0, i + 1, 0, 0)) for i in range(2))


class SetClock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now_us = T0

    def wall_us(self) -> int:
        return self.now_us

    def monotonic_us(self) -> int:
        return self.now_us

    async def sleep(self, seconds: float) -> None:
        self.now_us += int(seconds * 1e6)


def site() -> Inventory:
    nodes = tuple(
        InstalledNode(name, "A", rack, "H800-SXM", SLOTS, 0.9894)
        for name, rack in (("a1", "r1"), ("a2", "r1"), ("b1", "r2"))
    )
    return Inventory("s", "Site", "Asia/Hong_Kong", "fp16", "dense", "boost", nodes)


@pytest.fixture
def watch(tmp_path_factory: pytest.TempPathFactory) -> tuple[Watch, SetClock]:
    clock = SetClock()
    bus = SqliteBus(tmp_path_factory.mktemp("bus") / "bus.db", clock=clock)
    return Watch(bus, site, WatchOptions(), clock, HealthBoard("watch", "t", clock)), clock


def record(node: str, tick: int, gflop: Sequence[float], **values: Sequence[float]) -> bytes:
    us = tick * 1_000_000
    own = {"observed_us": [us, us], "down_us": [0, 0], "active_us": [us, 0], **values}
    low = [g if g == COUNTER_ABSENT else g * 9 // 10 for g in gflop]
    flop = {"gflop": gflop, "gflop_lo": low, "gflop_hi": gflop}
    labels = [SlotLabels(SLOTS[0], "GPU-1", "NVIDIA H800", "", "job-1")] if tick == 0 else []
    return encode(
        NodeRecord(
            node, Origin.SIMULATED, 5, tick, T0 + us, 0, SLOTS, [0, 0], {**own, **flop}, labels
        )
    )


def feed(watch: Watch, values: list[bytes], at_us: int) -> None:
    size = len(values)
    chunk = Chunk(Partition("t", 0), range(size), [at_us] * size, [b""] * size, values)
    watch.take_in([chunk])


def payloads(messages: list[Message]) -> dict[bytes, bytes]:
    return {message.key: message.value for message in messages}


async def test_nothing_is_said_before_anything_is_known(watch: tuple[Watch, SetClock]) -> None:
    assert watch[0].messages() == []


async def test_counted_figures(watch: tuple[Watch, SetClock]) -> None:
    role, clock = watch
    claim = Allocation("sim", "1", "acme", "p", "j", (Subject("a1"),), T0 - 1)
    value = dumps(claim)
    role.learn([Chunk(Partition("alloc", 0), [0], [T0], [claim.key], [value])])
    for tick in range(5):
        clock.now_us = T0 + tick * 1_000_000
        down = [0, tick * 1_000_000]
        observed = [tick * 1_000_000, 0]
        batch = [
            record("a1", tick, [tick * 300_000, tick * 500_000], power_w=[400.0, math.nan],
                   gpu_temperature_c=[60, 70], gpu_utilization=[1, 0]),
            record("a2", tick, [COUNTER_ABSENT, 0], down_us=down, observed_us=observed,
                   active_us=[0, 0], gpu_temperature_c=[30, 20]),
            record("x9", tick, [1, 1]),
        ]  # fmt: skip
        feed(role, batch, clock.now_us)
    out = payloads(role.messages())
    frame = parse_frame(out[b"frame"], clock.now_us)
    header = frame.header
    # a1: 0.3 and 0.5 PFLOPS; a2: one unmeasured, one down; b1: silent.
    assert header["pflops_delivered"] == pytest.approx(0.8)
    assert header["pflops_lo"] == pytest.approx(0.72)
    assert header["pflops_hi"] == pytest.approx(0.8)
    counts = {k: header[k] for k in header if k.startswith(("gpus_", "nodes_"))}
    assert counts == {
        "gpus_installed": 6, "gpus_reporting": 3, "gpus_down": 1, "gpus_allocated": 2,
        "gpus_active": 1, "gpus_idle": 2, "gpus_throttled": 0, "gpus_other_origin": 0,
        "nodes_installed": 3, "nodes_reporting": 2,
    }  # fmt: skip
    assert header["pflops_nameplate"] == pytest.approx(6 * 0.9894, abs=1e-3)
    nested = [header[f"pflops_{x}"] for x in ("nameplate", "reporting", "allocated", "active")]
    assert nested == sorted(nested, reverse=True)
    assert header["coverage"] == pytest.approx(2 / 6, abs=1e-4)
    assert header["power_kw"] == 0.4
    assert header["origin"] == "simulated"
    assert [row["gpu"] for row in header["hottest"]] == ["a1·1", "a1·0", "a2·0"]
    assert header["attention"] == [
        {"kind": "down", "node": "a2", "rack": "r1", "gpus": 1, "tenant": None},
        {"kind": "silent", "node": "b1", "rack": "r2", "gpus": 2, "tenant": None},
    ]
    detail = json.loads(out[b"detail"])
    assert detail["nodes_missing"] == ["b1"]
    assert [(t["tenant"], t["gpus"], t["active"]) for t in detail["tenants"]] == [("acme", 2, 1)]
    assert [(r["rack"], r["gpus_reporting"]) for r in detail["racks"]] == [("r1", 3), ("r2", 0)]
    assert detail["racks"][1]["pflops"] is None
    assert detail["racks"][0]["pflops"] == pytest.approx(0.8)
    assert detail["nodes"]["node"] == ["a1", "a2", "b1"]
    assert detail["nodes"]["pflops"] == [pytest.approx(0.8), None, None]
    assert [hall["gpus_reporting"] for hall in detail["halls"]] == [3]
    assert json.loads(out[b"labels"])["a1"][0]["uuid"] == "GPU-1"


async def test_silence_is_missing_and_estimates_stay_out(watch: tuple[Watch, SetClock]) -> None:
    role, clock = watch
    for tick in range(3):
        clock.now_us = T0 + tick * 1_000_000
        values = [COUNTER_ABSENT, COUNTER_ABSENT]
        batch = [record("a1", tick, values, gflop_estimated=[tick * 200_000, COUNTER_ABSENT])]
        feed(role, batch, clock.now_us)
    header = parse_frame(payloads(role.messages())[b"frame"], clock.now_us).header
    assert header["pflops_delivered"] is None
    assert header["pflops_estimated"] == pytest.approx(0.2)
    clock.now_us += 5_000_001
    header = parse_frame(payloads(role.messages())[b"frame"], clock.now_us).header
    assert (header["gpus_reporting"], header["nodes_reporting"]) == (0, 0)
    assert header["pflops_estimated"] is None
    assert header["origin"] == "none"


async def test_estimates_that_are_shown_are_still_not_measured(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    clock = SetClock()
    bus = SqliteBus(tmp_path_factory.mktemp("bus") / "bus.db", clock=clock)
    options = WatchOptions(show_estimates=True)
    role = Watch(bus, site, options, clock, HealthBoard("watch", "t", clock))
    for tick in range(3):
        clock.now_us = T0 + tick * 1_000_000
        values = [COUNTER_ABSENT, tick * 100_000]
        estimated = [tick * 200_000, COUNTER_ABSENT]
        feed(role, [record("a1", tick, values, gflop_estimated=estimated)], clock.now_us)
    header = parse_frame(payloads(role.messages())[b"frame"], clock.now_us).header
    assert header["pflops_delivered"] == pytest.approx(0.3)
    assert header["coverage"] == pytest.approx(1 / 6, abs=1e-4)


async def test_time_without_a_measurement_is_no_zero(watch: tuple[Watch, SetClock]) -> None:
    """The counters stand still: on the first GPU nothing was measured, the second was idle."""
    role, clock = watch
    for tick in range(3):
        clock.now_us = T0 + tick * 1_000_000
        us = tick * 1_000_000
        feed(role, [record("a1", tick, [700, 900], gflop_measured_us=[5, us])], clock.now_us)
    header = parse_frame(payloads(role.messages())[b"frame"], clock.now_us).header
    assert header["pflops_delivered"] == 0
    assert header["coverage"] == pytest.approx(1 / 6, abs=1e-4)


async def test_mig_instances_are_not_summed_beside_their_gpu(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    clock = SetClock()
    bus = SqliteBus(tmp_path_factory.mktemp("bus") / "bus.db", clock=clock)
    board = HealthBoard("watch", "t", clock)
    role = Watch(bus, site, WatchOptions(), clock, board)
    instance = pack_slot(Slot(0, 1, 0, 0, 1, 0))
    stranger = pack_slot(Slot(0, 77, 0, 0))
    for tick in range(3):
        clock.now_us = T0 + tick * 1_000_000
        us, gflop = tick * 1_000_000, tick * 300_000
        values = {"gflop": [gflop] * 3, "observed_us": [us] * 3, "active_us": [us] * 3, "down_us": [0] * 3}  # fmt: skip
        slots = [SLOTS[0], instance, stranger]
        one = NodeRecord("a1", Origin.MEASURED, 5, tick, T0 + us, 0, slots, [0] * 3, values)
        feed(role, [encode(one)], clock.now_us)
    header = parse_frame(payloads(role.messages())[b"frame"], clock.now_us).header
    assert header["pflops_delivered"] == pytest.approx(0.3)
    assert header["gpus_reporting"] == 1
    assert board.value("gpus_unknown") == 1


async def test_late_and_repeated_records_change_nothing_and_a_backlog_is_skimmed(
    watch: tuple[Watch, SetClock],
) -> None:
    role, clock = watch
    batch = [record("a1", tick, [tick * 300_000, tick]) for tick in range(60)]
    clock.now_us = T0 + 59_000_000
    feed(role, batch[::-1] + batch[:5], clock.now_us)
    header = parse_frame(payloads(role.messages())[b"frame"], clock.now_us).header
    assert header["pflops_delivered"] == pytest.approx(0.3, abs=1e-3)
    feed(role, batch[:3], clock.now_us)
    again = parse_frame(payloads(role.messages())[b"frame"], clock.now_us).header
    assert again["pflops_delivered"] == header["pflops_delivered"]


async def test_a_gpu_that_says_nothing_of_its_activity_is_not_idle(
    watch: tuple[Watch, SetClock],
) -> None:
    role, clock = watch
    for tick in range(3):
        clock.now_us = T0 + tick * 1_000_000
        us = tick * 1_000_000
        feed(
            role, [record("a1", tick, [0, 0], observed_us=[us, 0], active_us=[0, 0])], clock.now_us
        )
    header = parse_frame(payloads(role.messages())[b"frame"], clock.now_us).header
    counts = [header[f"gpus_{name}"] for name in ("reporting", "active", "idle")]
    assert counts == [2, 0, 1]


async def test_a_frame_says_how_often_records_come(watch: tuple[Watch, SetClock]) -> None:
    role, clock = watch
    gaps: list[float | None] = []
    for tick in range(3):
        clock.now_us = T0 + tick * 15_000_000
        feed(role, [record("a1", tick * 15, [0, 0])], clock.now_us)
        frame = parse_frame(payloads(role.messages())[b"frame"], clock.now_us)
        gaps.append(frame.header["gap_s"])
    assert gaps == [None, 15.0, 15.0]


async def test_origins_are_never_added_up(watch: tuple[Watch, SetClock]) -> None:
    role, clock = watch
    for tick in range(3):
        clock.now_us = T0 + tick * 1_000_000
        real = parse(record("a1", tick, [tick * 300_000, tick * 100_000]))
        measured = encode(dataclasses.replace(real, origin=Origin.MEASURED))
        feed(role, [measured, record("a2", tick, [tick * 900_000, 0])], clock.now_us)
    header = parse_frame(payloads(role.messages())[b"frame"], clock.now_us).header
    assert header["origin"] == "measured"
    assert header["pflops_delivered"] == pytest.approx(0.4)
    assert (header["gpus_reporting"], header["gpus_other_origin"]) == (2, 2)


async def test_a_nameplate_that_nobody_knows_is_absent(
    watch: tuple[Watch, SetClock], monkeypatch: pytest.MonkeyPatch
) -> None:
    role, clock = watch
    nameless = dataclasses.replace(site(), nodes=(InstalledNode("a1", "A", "r1", "", SLOTS, 0.0),))
    monkeypatch.setattr(role, "_inventory", lambda: nameless)
    feed(role, [record("a1", 0, [COUNTER_ABSENT, COUNTER_ABSENT])], clock.now_us)
    header = parse_frame(payloads(role.messages())[b"frame"], clock.now_us).header
    names = ("nameplate", "reporting", "allocated", "active")
    assert [header[f"pflops_{name}"] for name in names] == [None] * 4
    assert header["method"] == "none"


def test_quantized_bytes() -> None:
    values = np.array([0.0, 0.5, 1.5, math.nan, -1.0])
    assert quantize(values, 200.0).tolist() == [0, 100, 254, 255, 0]
