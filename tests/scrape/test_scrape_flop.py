"""FLOP through an exporter: no more time than its values stand for, and none that is doubtful."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import accumulate

import pytest
from exporter_pages import MODEL, dcgm_page
from hypothesis import given, settings
from hypothesis import strategies as st

from collectors.contract.flop import FlopFlag, FlopMethod
from collectors.contract.identity import parse_slot
from collectors.contract.models import find_model
from collectors.contract.record import NodeRecord
from collectors.kit.flops import rates_of
from collectors.scrape.node import ScrapedNode
from collectors.scrape.page import PageReader
from collectors.scrape.refresh import RefreshClock

CLOCK_MHZ = 1410.0


class Still:
    """A clock that nobody asks."""

    def wall_us(self) -> int:
        return 0

    def monotonic_us(self) -> int:
        return 0

    async def sleep(self, seconds: float) -> None:
        """Returns at once."""


@dataclass
class Exporter:
    """Shows means over its own interval, until the next is over."""

    interval_s: float
    offset_s: float
    truth: list[float]
    """Tensor activity by second."""

    def mean(self, time_s: float) -> float:
        """Of the last whole interval."""
        end = (time_s - self.offset_s) // self.interval_s * self.interval_s + self.offset_s
        return self.between(end - self.interval_s, end)

    def between(self, start: float, end: float) -> float:
        """The mean of the truth over any time."""
        return (self._until(end) - self._until(max(0.0, start))) / (end - start)

    def _until(self, time_s: float) -> float:
        whole = min(int(time_s), len(self.truth) - 1)
        return self.sums[whole] + self.truth[whole] * (time_s - whole)

    def __post_init__(self) -> None:
        self.sums = [0.0, *accumulate(self.truth)]

    def page(self, time_s: float) -> bytes:
        """What it shows at a time."""
        tick = (time_s - self.offset_s) // self.interval_s
        activity = self.mean(time_s)
        return dcgm_page({0: {
            "power": 200 + tick % 7, "energy_mj": 1e6 + tick * 1e5, "clock_mhz": CLOCK_MHZ,
            "utilization": 1.0, "tensor": activity, "sm": min(1.0, activity + 0.1),
        }})  # fmt: skip


def gflop(record: NodeRecord, name: str = "gflop") -> int:
    return int(record.values[name][0]) if name in record.values else 0


def truth_gflop(exporter: Exporter, seconds: float) -> float:
    rates = rates_of(find_model(MODEL))
    assert rates is not None
    return rates.fp16 * CLOCK_MHZ * exporter.between(0, seconds) * seconds * 1e6


def scraped(
    exporter: Exporter, period_s: float, seconds: float, refresh_s: float | None = None
) -> list[NodeRecord]:
    stated = None if refresh_s is None else round(refresh_s * 1e6)
    node = ScrapedNode("n1", "dcgm-exporter", Still(), period_s, stated)
    reader, records = PageReader(), list[NodeRecord]()
    refresh = node.renewals.refresh
    at = exporter.interval_s + exporter.offset_s
    while at < seconds:
        taken = node.take(reader.read(exporter.page(at)), round(at * 1e6))
        assert taken.record is not None
        records.append(taken.record)
        probe_us = refresh.probe_us
        if probe_us is not None and node.renewals.renewed:
            page = reader.read(exporter.page(at + probe_us / 1e6))
            refresh.probe(changed=node.renewals.differs(page))
        at += period_s
    return records


def timeline(seed: int, seconds: int) -> list[float]:
    rng = random.Random(seed)
    truth: list[float] = []
    while len(truth) < seconds:
        level = rng.uniform(0.05, 0.8)
        truth += [level * rng.uniform(0.9, 1.1) for _ in range(rng.randint(20, 200))]
    return truth


@settings(max_examples=15)
@given(
    st.sampled_from([20.0, 30.0, 45.0, 60.0]), st.floats(0, 19.9), st.sampled_from([5.0, 10.0, 15.0]),
    st.integers(0, 10_000),
)  # fmt: skip
def test_law_a_faster_scrape_counts_each_value_once(
    interval_s: float, offset_s: float, period_s: float, seed: int
) -> None:
    seconds = 3_600
    exporter = Exporter(interval_s, offset_s, timeline(seed, seconds + 200))
    records = scraped(exporter, period_s, seconds)
    first, last = records[0], records[-1]
    spent_us = last.time_us - first.time_us
    measured_us = gflop(last, "gflop_measured_us")
    assert measured_us <= spent_us
    # What it takes to learn the interval is not measured: a few intervals of the hour.
    assert measured_us >= 0.85 * spent_us
    share = measured_us / spent_us
    want = truth_gflop(exporter, seconds) * spent_us / seconds / 1e6 * share
    assert gflop(last) == pytest.approx(want, rel=0.08)
    assert gflop(last, "gflop_lo") <= gflop(last) <= gflop(last, "gflop_hi")
    assert gflop(last, "gflop_hi") == pytest.approx(1.1 * gflop(last), rel=0.01)


@pytest.mark.parametrize(
    ("interval_s", "least", "most"), [(1, 0.02, 0.10), (5, 0.2, 0.4), (10, 0.4, 0.7)]
)
def test_a_slower_scrape_covers_the_exporters_interval_alone(
    interval_s: float, least: float, most: float
) -> None:
    rng = random.Random(5)
    truth = [round(rng.uniform(0.2, 0.8), 4) for _ in range(11_000)]
    records = scraped(Exporter(interval_s, 0.3, truth), 15.0, 10_800)
    half = records[len(records) // 2]
    spent_us = records[-1].time_us - half.time_us
    covered_us = gflop(records[-1], "gflop_measured_us") - gflop(half, "gflop_measured_us")
    assert least <= covered_us / spent_us <= most
    # What is covered is the truth's mean.
    done = gflop(records[-1]) - gflop(half)
    rates = rates_of(find_model(MODEL))
    assert rates is not None
    mean = done / (rates.fp16 * CLOCK_MHZ * covered_us)
    assert mean == pytest.approx(0.5, abs=0.05)


def test_a_stated_interval_needs_no_learning() -> None:
    exporter = Exporter(30.0, 0.0, timeline(1, 400))
    records = scraped(exporter, 15.0, 300, refresh_s=30.0)
    assert gflop(records[3], "gflop_measured_us") >= 30_000_000


BUSY = {"power": 250.0, "clock_mhz": CLOCK_MHZ, "utilization": 0.9, "tensor": 0.4, "sm": 0.8}


class Played:
    """Pages by hand, one each 15 s, of an exporter whose interval is known."""

    def __init__(self) -> None:
        self.node = ScrapedNode("n1", "dcgm-exporter", Still(), 15.0, 15_000_000)
        self.reader, self.time_us = PageReader(), 0

    def show(self, **values: float | None) -> NodeRecord:
        """The next record; a value that is None is not on the page."""
        self.time_us += 15_000_000
        shown = {"energy_mj": float(self.time_us // 1000), **BUSY, **values}
        known = {name: value for name, value in shown.items() if value is not None}
        taken = self.node.take(self.reader.read(dcgm_page({0: known})), self.time_us)
        assert taken.record is not None
        return taken.record


def flags(record: NodeRecord) -> FlopFlag:
    return FlopFlag(int(record.values["flop_flags"][0]))


def growth(before: NodeRecord, after: NodeRecord) -> tuple[int, int]:
    return (gflop(after) - gflop(before),
            gflop(after, "gflop_measured_us") - gflop(before, "gflop_measured_us"))  # fmt: skip


@pytest.mark.parametrize(
    "shown", [{"tensor": None, "sm": None}, {"tensor": 0.0, "sm": 0.0}], ids=["paused", "all zero"]
)
def test_paused_and_zero_while_busy_are_unmeasured(shown: dict[str, float | None]) -> None:
    played = Played()
    played.show(tensor=0.31)
    before = played.show(tensor=0.32)
    after = played.show(**shown)
    assert growth(before, after) == (0, 0)
    assert flags(after) & FlopFlag.STALE
    assert after.values["flop_method"][0] == FlopMethod.EXPORTER
    assert "tensor_activity" not in after.values
    assert gflop(played.show(tensor=0.33)) > gflop(after)


def test_no_tensor_work_on_a_busy_gpu_is_measured_as_none() -> None:
    played = Played()
    played.show(tensor=0.31)
    before = played.show(tensor=0.32)
    after = played.show(tensor=0.0, sm=0.7)
    assert growth(before, after) == (0, 15_000_000)
    assert after.values["tensor_activity"][0] == 0


def test_an_idle_gpu_is_measured_as_idle() -> None:
    played = Played()
    idle: dict[str, float | None] = {"tensor": 0.0, "sm": 0.0, "utilization": 0.0, "power": 60.0}
    records = [played.show(**idle) for _ in range(21)]
    assert growth(records[0], records[-1]) == (0, 20 * 15_000_000)


def test_activities_that_stand_still_while_the_gpu_moves_are_stale() -> None:
    played = Played()
    records = [played.show(power=200.0 + number) for number in range(20)]
    assert flags(records[-1]) & FlopFlag.STALE
    assert gflop(records[-1], "gflop_measured_us") <= 3 * 15_000_000
    assert "tensor_activity" not in records[-1].values
    assert records[-1].values["power_w"][0] == 219


def test_an_exporter_that_shows_the_same_for_ever_shows_nothing() -> None:
    played = Played()
    records = [played.show(energy_mj=5e6) for _ in range(12)]
    assert "power_w" in records[1].values
    assert "power_w" not in records[-1].values
    assert "energy_mj" not in records[-1].values
    spent_us = records[-1].time_us - records[0].time_us
    assert records[-1].values["observed_us"][0] <= spent_us // 2
    assert "power_w" in played.show(energy_mj=6e6).values


def test_without_a_clock_only_nothing_is_known() -> None:
    played = Played()
    played.show(tensor=0.31)
    before = played.show(tensor=0.32)
    after = played.show(tensor=0.33, clock_mhz=None)
    assert growth(before, after) == (0, 0)
    assert flags(after) == FlopFlag.WINDOW_REJECTED


def test_what_is_impossible_does_not_count() -> None:
    played = Played()
    played.show(tensor=0.31)
    before = played.show(tensor=0.32)
    after = played.show(tensor=0.9, clock_mhz=4_900.0)
    assert growth(before, after) == (0, 0)
    assert flags(after) & FlopFlag.IMPOSSIBLE_RATE


def test_rates_become_counters() -> None:
    played = Played()
    played.show(tensor=0.30, pcie_tx=1e9)
    before = played.show(tensor=0.31, pcie_tx=2e9)
    after = played.show(tensor=0.32, pcie_tx=3e9)
    assert after.values["pcie_tx_bytes"][0] - before.values["pcie_tx_bytes"][0] == 45_000_000_000


def test_a_page_that_did_not_come_is_no_interval() -> None:
    clock = RefreshClock()
    at = 0
    for number in range(40):
        at += 15_000_000
        clock.see(at, changed=number % 2 == 0)
    assert clock.interval_us == 30_000_000
    clock.lost()
    at += 600_000_000
    assert clock.see(at, changed=True) == 0
    assert clock.interval_us == 30_000_000


def test_the_slot_is_that_of_the_address() -> None:
    assert Played().show().slots == [parse_slot("0000:10:00.0")]
