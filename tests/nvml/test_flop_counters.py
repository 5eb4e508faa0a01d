"""Parts that decide whether the driver's figures can be used: cycle counters, clock buffer."""

from __future__ import annotations

from itertools import pairwise

import pytest
from fake_nvml import FakeNvml, whole_h100
from flop_scenes import Scene
from hypothesis import given
from hypothesis import strategies as st
from manual_clock import ManualClock

from collectors.nvml.api import Nvml
from collectors.nvml.clocks import ClockBuffer
from collectors.nvml.cycles import ANY, ELAPSED, HMMA, Context, CycleCounters, Reading

SMS = 132


def context(tensor: float = 0.5, moved: float = 0.0) -> Context:
    return Context(1_000_000, 1700.0, 1980.0, moved, tensor)


def totals(windows: int, elapsed: float = 1700e6, tensor: float = 0.5) -> list[dict[int, float]]:
    return [
        {ELAPSED: elapsed * n, ANY: elapsed * n * tensor, HMMA: elapsed * n * tensor}
        for n in range(1, windows + 1)
    ]


def test_nothing_is_asked_for_while_the_gpu_is_idle() -> None:
    counters = CycleCounters(SMS)
    assert not counters.wanted(0.0)
    assert counters.wanted(0.5)
    assert "waits for tensor work" in counters.reason


def test_a_driver_without_them_is_asked_twice() -> None:
    counters = CycleCounters(SMS)
    for _ in range(2):
        assert counters.take({}, context()) is None
    assert not counters.wanted(0.9)
    assert "does not give" in counters.refused


@pytest.mark.parametrize("off", [0.96, 1.04])
def test_more_than_three_percent_off_the_clock_is_refused(off: float) -> None:
    counters = CycleCounters(SMS)
    for values in totals(6, 1700e6 * off):
        counters.take(values, context())
    assert counters.reading is None
    assert "4.0% and from the tensor activity by 0.0%" in counters.refused


def test_more_than_three_percent_off_the_activity_is_refused() -> None:
    counters = CycleCounters(SMS)
    for values in totals(6, tensor=0.52):
        counters.take(values, context())
    assert "tensor activity by 4.0%" in counters.refused


def test_windows_with_a_moving_clock_decide_nothing() -> None:
    counters = CycleCounters(SMS)
    for values in totals(20):
        counters.take(values, context(moved=0.3))
    assert counters.reading is None
    assert not counters.refused
    for values in totals(6):
        counters.take(values, context())
    assert counters.reading == Reading(totals=True, summed=False)


def test_one_odd_window_does_not_decide() -> None:
    counters = CycleCounters(SMS)
    windows = totals(6)
    for number, values in enumerate(windows):
        counters.take(values, context(tensor=0.9 if number == 2 else 0.5))
    assert counters.reading is not None


def used(bits: int | None) -> CycleCounters:
    counters = CycleCounters(SMS)
    for values in totals(6):
        counters.take(values, context())
    assert counters.reading == Reading(totals=True, summed=False), bits
    counters.skip()
    return counters


@given(
    st.sampled_from([32, 40, 48, 52]), st.integers(0, 2**31),
    st.lists(st.integers(0, 1_980_000_000), min_size=2, max_size=20),
)  # fmt: skip
def test_a_wrapping_total_loses_nothing(bits: int, before: int, steps: list[int]) -> None:
    counters, size = used(bits), 1 << bits
    total = size - before % size
    values = [total]
    for step in steps:
        values.append(values[-1] + step)
    grown = 0.0
    for value in values:
        wrapped = float(value % size)
        cycles = counters.take({ELAPSED: wrapped, ANY: wrapped}, context())
        grown += cycles.elapsed if cycles is not None else 0.0
    assert grown == pytest.approx(sum(steps), abs=0.01)


@given(st.lists(st.floats(0, 2**60), min_size=2, max_size=30))
def test_whatever_a_total_does_no_window_has_more_than_there_can_be(values: list[float]) -> None:
    counters = used(None)
    for value in values:
        cycles = counters.take({ELAPSED: value, ANY: value}, context())
        assert cycles is None or 0 <= cycles.elapsed <= 1.05 * 1980e6


def test_the_clock_buffer_gives_each_reading_once(fake_nvml: FakeNvml) -> None:
    gpu = whole_h100()
    gpu.sets["clock_samples"] = 20_000
    gpu.timeline += [(0, "set sm_clock 1500"), (3, "set sm_clock 1700")]
    scene = Scene(fake_nvml, [gpu])
    nvml, buffer = opened(scene)
    scene.move(2)
    first = buffer.take()
    assert set(first.clocks_mhz) == {1500}
    scene.move(2)
    second = buffer.take()
    assert len(second.clocks_mhz) == 100
    assert all(earlier <= later for earlier, later in pairwise(second.clocks_mhz))
    assert second.span_us == 99 * 20_000
    nvml.close()
    scene.backend.close()


def opened(scene: Scene) -> tuple[Nvml, ClockBuffer]:
    nvml = Nvml()
    nvml.open()
    return nvml, ClockBuffer(nvml, scene.backend.devices()[0].handle, scene.clock)


@pytest.mark.parametrize("code", [3, 6, 13, 999])
def test_a_buffer_that_gives_nothing_is_given_up(fake_nvml: FakeNvml, code: int) -> None:
    gpu = whole_h100()
    gpu.sets["clock_samples"] = 20_000
    gpu.fails["nvmlDeviceGetSamples"] = code
    scene = Scene(fake_nvml, [gpu])
    nvml, buffer = opened(scene)
    for _ in range(5):
        assert buffer.take().clocks_mhz == []
    assert not buffer.useful
    nvml.close()
    scene.backend.close()


def test_a_buffer_of_something_else_is_given_up(fake_nvml: FakeNvml) -> None:
    """What it holds is not what the clock is."""
    gpu = whole_h100()
    gpu.sets["clock_samples"] = 20_000
    gpu.timeline.append((0, "set sm_clock 900"))
    scene = Scene(fake_nvml, [gpu])
    nvml, buffer = opened(scene)
    for _ in range(10):
        scene.move(1)
        assert buffer.take(1700.0).clocks_mhz == []
    assert not buffer.useful
    nvml.close()
    scene.backend.close()


def test_a_slow_buffer_is_given_up(fake_nvml: FakeNvml) -> None:
    gpu = whole_h100()
    gpu.sets["clock_samples"] = 20_000
    scene = Scene(fake_nvml, [gpu])
    nvml, _ = opened(scene)

    class Slow(ManualClock):
        def monotonic_us(self) -> int:
            self.move(0.002)
            return super().monotonic_us()

    buffer = ClockBuffer(nvml, scene.backend.devices()[0].handle, Slow())
    for _ in range(2):
        scene.move(1)
        buffer.take()
    assert not buffer.useful
    nvml.close()
    scene.backend.close()
