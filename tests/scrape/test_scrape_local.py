"""The node agent's own reading of an exporter beside it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from exporter_pages import MODEL, dcgm_page, exporter

from collectors.contract.flop import FlopFlag, FlopMethod, FlopWindow
from collectors.contract.identity import parse_slot
from collectors.contract.models import find_model
from collectors.contract.record import SlotLabels
from collectors.kit.flops import rates_of
from collectors.scrape.local import LocalExporter
from collectors.scrape.page import PageReader

SLOT = parse_slot("0000:10:00.0")
LABELS = SlotLabels(SLOT, "GPU-00000000", MODEL)
TICK = {"sm_clock_mhz": 1200.0, "gpu_utilization": 0.9, "power_w": 300.0}


class Hands:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now_us = 1_000_000

    def wall_us(self) -> int:
        return self.now_us

    def monotonic_us(self) -> int:
        return self.now_us

    async def sleep(self, seconds: float) -> None:
        """Returns at once."""


class Played:
    """An exporter that renews each 30 s, read each 10 s, and an agent that ticks each second."""

    def __init__(self) -> None:
        self.clock = Hands()
        self.local = LocalExporter("http://127.0.0.1:9/metrics", self.clock)
        self.reader = PageReader()

    def run(self, seconds: int, renews: bool = True, clock_mhz: float = 1200.0) -> list[FlopWindow]:
        windows: list[FlopWindow] = []
        for _ in range(seconds):
            self.clock.now_us += 1_000_000
            second = self.clock.now_us // 1_000_000
            if second % 10 == 0:
                shown = second // 30 if renews else 1
                page = dcgm_page({0: {"tensor": 0.3 + shown % 50 / 1000, "sm": 0.8, "clock_mhz": 9,
                                      "power": 300.0 + second % 7}})  # fmt: skip
                self.local.take(self.reader.read(page))
            tick = {**TICK, "sm_clock_mhz": clock_mhz}
            window = self.local.window(LABELS, tick, self.clock.now_us)
            if window is not None:
                windows.append(window)
        return windows


def test_each_renewal_counts_once_with_the_agents_own_clocks() -> None:
    played = Played()
    played.run(300)
    windows = played.run(600)
    counted = [window for window in windows if window.elapsed_us]
    assert len(counted) == 20
    assert sum(window.elapsed_us for window in counted) == pytest.approx(600e6, rel=0.02)
    assert {window.method for window in windows} == {FlopMethod.EXPORTER}
    assert {window.mean_clock_mhz for window in counted} == {1200.0}
    rates = rates_of(find_model(MODEL))
    assert rates is not None
    gflop = sum(window.gflop for window in counted)
    assert gflop == pytest.approx(rates.fp16 * 0.32 * 1200 * 600e6, rel=0.06)


def test_a_clock_that_moved_widens_the_bounds() -> None:
    played = Played()
    played.run(300)
    played.run(15, clock_mhz=600.0)
    flags = [window.flags for window in played.run(30) if window.elapsed_us]
    assert flags[0] & FlopFlag.CLOCK_MOVING


def test_what_is_not_renewed_is_stale_and_counts_for_nothing() -> None:
    played = Played()
    played.run(300)
    windows = played.run(240, renews=False)
    assert sum(window.elapsed_us for window in windows) <= 60_000_000
    assert windows[-1].flags & FlopFlag.STALE


def test_a_gpu_that_the_exporter_does_not_know() -> None:
    played = Played()
    played.run(60)
    other = SlotLabels(parse_slot("0000:77:00.0"), "GPU-x", MODEL)
    assert played.local.window(other, TICK, played.clock.now_us) is None
    renumbered = SlotLabels(parse_slot("0000:77:00.0"), "GPU-00000000", MODEL)
    assert played.local.window(renumbered, TICK, played.clock.now_us) is not None


def test_it_reads_by_itself_and_stops() -> None:
    asked = threading.Event()

    def page() -> bytes:
        asked.set()
        return dcgm_page({0: {"tensor": 0.4, "sm": 0.8}})

    with exporter(page) as url:
        clock = Hands()
        local = LocalExporter(url, clock)
        local.start()
        try:
            assert asked.wait(10)
            answered = threading.Event()
            for _ in range(200):
                if local.window(LABELS, TICK, clock.now_us) is not None:
                    answered.set()
                    break
                answered.wait(0.02)
            assert answered.is_set()
        finally:
            local.stop()


def test_nobody_there_is_told_once_and_harms_nothing(caplog: pytest.LogCaptureFixture) -> None:
    local = LocalExporter("http://127.0.0.1:9/metrics", Hands())
    local.start()
    for _ in range(200):
        if caplog.messages:
            break
        threading.Event().wait(0.02)
    assert local.window(LABELS, TICK, 0) is None
    local.stop()
    assert sum("exporter_away" in text for text in caplog.messages) == 1


def test_it_needs_no_http_library() -> None:
    text = Path(LocalExporter.__init__.__code__.co_filename).read_text()
    assert "aiohttp" not in text
    with pytest.raises(ValueError, match="exporter's address"):
        LocalExporter("ftp://x", Hands())
