"""Programmed timelines through the driver's library, the backend and the assembler to FLOP."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterator

import pytest
from fake_nvml import FakeGpu, FakeNvml, whole_h100
from flop_scenes import Scene, Step, integral_gflop, programme, wave

from collectors.contract.flop import FlopFlag, FlopMethod, FlopWindow

MakeScene = Callable[[FakeGpu], Scene]
WITHIN = 0.005


@pytest.fixture
def scene(fake_nvml: FakeNvml) -> Iterator[MakeScene]:
    """Makes scenes, and sees to it that every GPM sample is given back."""
    made: list[Scene] = []
    live = ctypes.CDLL(str(fake_nvml.library)).fakeLiveSamples
    before = live()

    def make(gpu: FakeGpu) -> Scene:
        made.append(Scene(fake_nvml, [gpu]))
        return made[-1]

    yield make
    for one in made:
        one.backend.close()
    assert live() == before


def moving(second: float) -> tuple[float, float]:
    """Activity and clock as under a power cap that breathes."""
    return 0.5 + 0.4 * math.sin(second / 5), 1600 + 150 * math.sin(second / 9)


def gpu_of(steps: list[Step], **sets: float) -> FakeGpu:
    gpu = whole_h100()
    gpu.sets |= {"cycles": 0.0, **sets}
    programme(gpu, steps)
    return gpu


def windows(scene: Scene) -> list[FlopWindow]:
    return [samples[0].flop for samples in scene.samples if samples[0].flop is not None]


def test_pipe_over_a_moving_clock(scene: MakeScene) -> None:
    steps = wave(61, moving)
    one = scene(gpu_of(steps))
    one.run(61)
    programmed = integral_gflop(steps, 0, 60)
    assert one.last("gflop") == pytest.approx(programmed, rel=WITHIN)
    assert one.last("gflop_lo") < programmed < one.last("gflop_hi")
    assert one.last("gflop_measured_us") == pytest.approx(60e6, abs=1)
    assert one.last("flop_method") == FlopMethod.PIPE
    assert one.records[0].values["gflop"] == [0]


def test_pipe_with_buffered_clock_readings_follows_a_jumping_clock(scene: MakeScene) -> None:
    """The clock jumps by half within each window, where both ends see nothing of it."""
    steps: list[Step] = []
    for second in range(40):
        steps += [(second, 0.7, 1200.0), (second + 0.3, 0.7, 1800.0), (second + 0.9, 0.7, 1200.0)]
    blind = scene(gpu_of(steps))
    blind.run(31)
    programmed = integral_gflop(steps, 0, 30)
    assert abs(blind.last("gflop") / programmed - 1) > 0.1
    seeing = scene(gpu_of(steps, clock_samples=20_000))
    seeing.run(31)
    assert seeing.last("gflop") == pytest.approx(programmed, rel=0.02)
    assert FlopFlag.CLOCK_MOVING in FlopFlag(int(seeing.last("flop_flags")))
    assert seeing.last("gflop_lo") < programmed < seeing.last("gflop_hi")


@pytest.mark.parametrize("summed", [1, 2], ids=["mean", "sum"])
@pytest.mark.parametrize("difference", [0, 1], ids=["totals", "differences"])
def test_cycles_in_all_their_readings(scene: MakeScene, summed: int, difference: int) -> None:
    steps = wave(91, moving)
    one = scene(gpu_of(steps, cycles=summed, cycles_difference=difference))
    one.run(31)
    at_s, before = 30, one.last("gflop")
    assert one.last("flop_method") == FlopMethod.CYCLES
    one.run(61)
    programmed = integral_gflop(steps, at_s, 91)
    assert one.last("gflop") - before == pytest.approx(programmed, rel=WITHIN)
    device = one.backend.devices()[0]
    assert device.facts()[0].flop_method == "gpm_cycles"
    assert {window.method for window in windows(one)[40:]} == {FlopMethod.CYCLES}


def test_cycles_see_a_jumping_clock_that_the_ends_do_not(scene: MakeScene) -> None:
    steps = wave(20, lambda _: (0.6, 1700.0), 1.0)
    steps += [(second, 0.6, 1700.0 - 250 * (second % 2)) for second in range(20, 60)]
    one = scene(gpu_of(steps, cycles=2))
    one.run(20)
    assert one.last("flop_method") == FlopMethod.CYCLES
    one.run(40)
    assert one.last("gflop") == pytest.approx(integral_gflop(steps, 0, 59), rel=WITHIN)


@pytest.mark.parametrize(("bits", "summed"), [(32, 1), (40, 2), (48, 2)])
def test_counters_that_wrap(scene: MakeScene, bits: int, summed: int) -> None:
    steps = wave(91, moving)
    base = 2.0**bits - 1e9
    one = scene(gpu_of(steps, cycles=summed, cycles_wrap_bits=bits, cycles_base=base))
    one.run(91)
    assert one.last("flop_method") == FlopMethod.CYCLES
    assert one.last("gflop") == pytest.approx(integral_gflop(steps, 0, 90), rel=WITHIN)


def test_a_reset_of_the_counters_costs_no_flop(scene: MakeScene) -> None:
    """The window in which they began anew is the activity's."""
    steps = wave(61, moving)
    gpu = gpu_of(steps, cycles=1)
    gpu.timeline.append((40.5, "reset 0"))
    one = scene(gpu)
    one.run(61)
    methods = [window.method for window in windows(one)]
    assert FlopMethod.CYCLES in methods[:40]
    assert methods[-1] is FlopMethod.CYCLES
    assert one.last("gflop") == pytest.approx(integral_gflop(steps, 0, 60), rel=WITHIN)


def test_counters_that_do_not_fit_are_refused_with_a_reason(fake_nvml: FakeNvml) -> None:
    """A device of other SMs than it says: the clock does not fit."""
    steps = wave(40, moving)
    gpu = gpu_of(steps, cycles=2, sms=120)
    one = Scene(fake_nvml, [gpu])
    one.run(40)
    facts = one.backend.devices()[0].facts()[0]
    assert facts.flop_method == "gpm_pipe"
    assert "differ from the SM clock by" in facts.flop_reason
    assert one.last("gflop") == pytest.approx(integral_gflop(steps, 0, 39), rel=WITHIN)
    one.backend.close()


def test_methods_that_disagree_later_are_flagged(scene: MakeScene) -> None:
    """The activity that is published then is that of the percent metrics."""
    steps = wave(30, lambda _: (0.6, 1700.0), 1.0)
    gpu = gpu_of(steps, cycles=1)
    one = scene(gpu)
    one.run(20)
    assert one.last("flop_method") == FlopMethod.CYCLES
    # From here on metric 5 has an integral of its own, of which the cycles know nothing.
    before = one.last("gflop")
    for second in range(20, 30):
        gpu.gpm_us = {5: 1e9 + (second - 20) * 0.4e6}
        one.fake.write([gpu])
        one.tick()
        one.move(1)
    flags = FlopFlag(int(one.last("flop_flags")))
    assert FlopFlag.METHODS_DISAGREE in flags
    assert one.last("flop_method") == FlopMethod.PIPE
    assert one.last("gflop") > before


def test_a_gap_is_not_measured_and_flagged(scene: MakeScene) -> None:
    steps = wave(60, lambda _: (0.8, 1700.0), 1.0)
    one = scene(gpu_of(steps))
    one.run(11)
    one.move(20)
    one.run(11)
    gap = windows(one)[11]
    assert (gap.elapsed_us, gap.gflop, gap.flags) == (0, 0.0, FlopFlag.WINDOW_REJECTED)
    assert one.last("gflop") == pytest.approx(integral_gflop(steps, 0, 20), rel=WITHIN)
    assert one.last("gflop_measured_us") == pytest.approx(20e6, abs=2)


def test_a_short_window_goes_on(scene: MakeScene) -> None:
    steps = wave(20, lambda _: (0.8, 1700.0), 1.0)
    one = scene(gpu_of(steps))
    one.run(5)
    one.tick()
    one.move(0.1)
    one.tick()
    assert windows(one)[-1] == FlopWindow(FlopMethod.PIPE, 0, 0.0, 0.0, 0.0)
    one.move(0.9)
    one.tick()
    assert one.last("gflop") == pytest.approx(integral_gflop(steps, 0, 6), rel=WITHIN)
    assert "gflop_estimated" not in one.records[-1].values


def test_fp64_and_int8_are_apart_from_the_headline(scene: MakeScene) -> None:
    gpu = whole_h100()
    gpu.sets["cycles"] = 0
    gpu.gpm |= {5: 0.9, 7: 0.4, 8: 0.1, 6: 0.1, 9: 0.3}
    one = scene(gpu)
    one.run(11)
    cycles = 1755e6 * 10
    assert one.last("gflop") == pytest.approx(0.4 * 132 * 4096 * cycles / 1e9, rel=1e-6)
    assert one.last("gflop_fp64") == pytest.approx(0.2 * 132 * 256 * cycles / 1e9, abs=1)
    assert one.last("giop_int8") == pytest.approx(0.3 * 132 * 8192 * cycles / 1e9, abs=1)
    assert one.last("flop_flags") == 0
    assert one.last("tensor_fp64_activity") == pytest.approx(0.2)


def test_impossible_activity_does_not_count(scene: MakeScene) -> None:
    gpu = whole_h100()
    gpu.sets["cycles"] = 0
    gpu.gpm |= {5: 1.5, 7: 1.5}
    one = scene(gpu)
    one.run(5)
    assert one.last("gflop") == 0
    assert one.last("gflop_measured_us") == 0
    assert FlopFlag.IMPOSSIBLE_RATE in FlopFlag(int(one.last("flop_flags")))


def test_idle_is_measured_as_zero(scene: MakeScene) -> None:
    gpu = whole_h100()
    gpu.gpm |= {2: 0.0, 5: 0.0, 7: 0.0}
    one = scene(gpu)
    one.run(11)
    assert one.last("gflop") == 0
    assert one.last("gflop_measured_us") == 10_000_000


@pytest.mark.parametrize(
    ("name", "pci"), [("NVIDIA X999", 0x9999_10DE), ("NVIDIA H20", 0x9999_10DE)]
)
def test_models_without_rates_have_no_flop(scene: MakeScene, name: str, pci: int) -> None:
    gpu = whole_h100()
    gpu.name, gpu.pci = name, pci
    one = scene(gpu)
    one.run(5)
    values = one.records[-1].values
    assert not {"gflop", "gflop_lo", "gflop_hi", "gflop_estimated"} & values.keys()
    assert one.last("flop_method") == FlopMethod.NONE
    assert one.last("tensor_activity") == pytest.approx(0.8)
    facts = one.backend.devices()[0].facts()[0]
    assert (facts.flop_method, bool(facts.flop_reason)) == ("none", True)


@pytest.mark.parametrize("code", [3, 4])
def test_a_gpu_that_promises_gpm_and_has_none(scene: MakeScene, code: int) -> None:
    """A fraction of a GPU in a virtual machine; and one whose profiling is for the admin only."""
    gpu = whole_h100()
    gpu.fails["nvmlGpmSampleGet"] = code
    one = scene(gpu)
    one.run(5)
    facts = one.backend.devices()[0].facts()[0]
    assert facts.flop_method == "none"
    assert f"NVML {code}" in facts.flop_reason
    assert "tensor_activity" in facts.unsupported
    assert "gflop" not in one.records[-1].values
    assert one.last("flop_method") == FlopMethod.ESTIMATE
    assert one.last("gflop_estimated") > 0


def test_a_sample_that_fails_once_costs_nothing(scene: MakeScene) -> None:
    steps = wave(20, lambda _: (0.8, 1700.0), 1.0)
    gpu = gpu_of(steps)
    gpu.timeline += [(5.0, "fail nvmlGpmSampleGet 10"), (6.0, "fail nvmlGpmSampleGet 0")]
    one = scene(gpu)
    one.run(11)
    assert one.last("gflop") == pytest.approx(integral_gflop(steps, 0, 10), rel=WITHIN)
    assert one.last("gflop_measured_us") == pytest.approx(10e6, abs=2)
    assert "gflop_estimated" not in one.records[-1].values


def test_busy_pipes_at_idle_power_are_doubted(scene: MakeScene) -> None:
    gpu = whole_h100()
    for second, activity, power_mw in ((0, 0.0, 72_000), (5, 0.9, 75_000), (10, 0.9, 600_000)):
        gpu.timeline += [(second, f"gpm {metric} {activity}") for metric in (2, 5, 7)]
        gpu.timeline.append((second, f"set power_mw {power_mw}"))
    one = scene(gpu)
    one.run(15)
    flagged = [FlopFlag.IMPLAUSIBLE_POWER in window.flags for window in windows(one)]
    assert flagged[2:14] == [False] * 4 + [True] * 4 + [False] * 4


def test_traffic_of_pcie_where_there_is_no_nvlink(scene: MakeScene) -> None:
    gpu = whole_h100()
    del gpu.gpm[60], gpu.gpm[61]
    for number in (197, 198):
        del gpu.fields[number]
    one = scene(gpu)
    one.run(11)
    moved = one.last("pcie_tx_bytes")
    assert moved == pytest.approx(1500 * 2**20 * 9, rel=0.2)
