"""MIG through the driver's library, the backend and the assembler."""

from __future__ import annotations

import ctypes
import itertools
import math
from collections.abc import Callable, Iterator

import pytest
from fake_nvml import FakeGpu, FakeInstance, FakeNvml, whole_h100
from flop_scenes import Scene, Step, integral_gflop, programme, wave

from collectors.contract.flop import FlopFlag, FlopMethod
from collectors.contract.identity import slot_text, unpack_slot
from collectors.contract.source import Sample

MakeScene = Callable[[FakeGpu], Scene]
WITHIN = 0.005
ONE, TWO, THREE = 16, 32, 60
"""SMs of 1g, 2g and 3g instances of an H100."""
SHARED = ("gpu_temperature_c", "power_w", "energy_mj", "sm_clock_mhz", "gpu_utilization", "thermal_margin_c")  # fmt: skip


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


def divided(*instances: FakeInstance, **sets: float) -> FakeGpu:
    """An H100 in MIG mode, whose own activity is its instances'."""
    gpu = whole_h100()
    gpu.sets |= {"mig": 1, "mig_pending": 1, "max_mig": 7, "cycles": 0, **sets}
    gpu.gpm = {}
    gpu.instances = list(instances)
    gpu.timeline += [(0, "set power_mw 400000"), (0, "set sm_clock 1700")]
    return gpu


def three() -> list[FakeInstance]:
    """Of 3, 2 and 1 slices; the driver's numbering has gaps."""
    return [
        FakeInstance(0, 1, "MIG-aaaa", THREE, 40_448, 3, "3g.40gb"),
        FakeInstance(2, 3, "MIG-bbbb", TWO, 20_096, 2, "2g.20gb"),
        FakeInstance(5, 9, "MIG-cccc", ONE, 9_856, 1, "1g.10gb"),
    ]


def of(scene: Scene, uuid: str) -> list[Sample]:
    return [one for samples in scene.samples for one in samples if one.labels.uuid == uuid]


def moving(phase: float) -> Callable[[float], tuple[float, float]]:
    def at(second: float) -> tuple[float, float]:
        return 0.5 + 0.4 * math.sin(second / 5 + phase), 1700.0

    return at


def gflop_of(scene: Scene, uuid: str) -> float:
    """The counter of an instance in the last record."""
    record = scene.records[-1]
    slot = of(scene, uuid)[-1].labels.slot
    return record.values["gflop"][list(record.slots).index(slot)]


@pytest.mark.parametrize("cycles", [0, 2])
def test_instances_and_their_sum(scene: MakeScene, cycles: int) -> None:
    gpu = divided(*three(), cycles=cycles)
    steps: dict[int, list[Step]] = {}
    for gi, phase in ((1, 0.0), (3, 2.0), (9, 4.0)):
        steps[gi] = wave(61, moving(phase))
        programme(gpu, steps[gi], gi)
    one = scene(gpu)
    one.run(61)
    expected = {
        "MIG-aaaa": integral_gflop(steps[1], 0, 60, THREE),
        "MIG-bbbb": integral_gflop(steps[3], 0, 60, TWO),
        "MIG-cccc": integral_gflop(steps[9], 0, 60, ONE),
    }
    for uuid, gflop in expected.items():
        assert gflop_of(one, uuid) == pytest.approx(gflop, rel=WITHIN), uuid
    assert one.last("gflop", 0) == pytest.approx(sum(expected.values()), rel=WITHIN)
    assert not int(one.last("flop_flags", 0)) & FlopFlag.PARENT_MISMATCH
    assert one.last("flop_method", 1) == (FlopMethod.CYCLES if cycles else FlopMethod.PIPE)
    assert one.last("gflop_measured_us", 0) == pytest.approx(60e6, abs=100)


def test_what_an_instance_says_and_what_is_its_gpus(scene: MakeScene) -> None:
    gpu = divided(*three())
    gpu.gpm = {"2@1": 0.7, "5@1": 0.5, "7@1": 0.5, "10@1": 0.3, "2@3": 0.0, "5@3": 0.0}
    gpu.sets["used@1"] = 7 * 2**30
    one = scene(gpu)
    one.run(3)
    whole, first, second, third = one.samples[-1]
    assert whole.parent is None
    assert [slot_text(s.labels.slot) for s in (first, second, third)] == [
        "0000:1b:00.0/1/0", "0000:1b:00.0/3/0", "0000:1b:00.0/9/0",
    ]  # fmt: skip
    assert {s.parent for s in (first, second, third)} == {whole.labels.slot}
    assert [s.labels.uuid for s in (first, second, third)] == ["MIG-aaaa", "MIG-bbbb", "MIG-cccc"]
    assert first.labels.model == whole.labels.model
    assert not set(SHARED) & first.values.keys()
    assert first.values["sm_activity"] == pytest.approx(0.7)
    assert first.values["dram_activity"] == pytest.approx(0.3)
    assert first.values["memory_used_bytes"] == 7 * 2**30
    assert second.values["sm_activity"] == 0
    assert "sm_activity" not in third.values
    facts = {one.uuid: one for one in one.backend.devices()[0].facts()}
    assert (facts["MIG-aaaa"].profile, facts["MIG-aaaa"].sm_count) == ("3g.40gb", THREE)
    assert facts["MIG-aaaa"].parent == slot_text(whole.labels.slot)
    assert "shared" in facts["MIG-aaaa"].unsupported["power_w"]


def test_energy_of_instances_is_the_gpus_to_the_last_millijoule(scene: MakeScene) -> None:
    gpu = divided(*three())
    for gi, phase in ((1, 0.0), (3, 2.0), (9, 4.0)):
        programme(gpu, wave(100, moving(phase), 1.0), gi)
    for second in range(100):
        gpu.timeline.append((second, f"set power_mw {300_000 + 7_919 * (second % 41)}"))
    one = scene(gpu)
    one.run(90)
    first, last = one.samples[0], one.samples[-1]
    spent = last[0].values["energy_mj"] - first[0].values["energy_mj"]
    allocated = [
        after.values["energy_allocated_mj"] - before.values["energy_allocated_mj"]
        for before, after in zip(first[1:], last[1:], strict=True)
    ]
    assert spent > 0
    assert sum(allocated) == spent
    assert allocated[0] > allocated[1] > allocated[2] > 0
    power = sum(sample.values["power_allocated_w"] for sample in last[1:])
    assert power == pytest.approx(last[0].values["power_w"], abs=1e-9)


def test_a_reset_of_energy_gives_no_instance_anything(scene: MakeScene) -> None:
    gpu = divided(*three())
    gpu.timeline.append((5.5, "reset 0"))
    one = scene(gpu)
    one.run(9)
    at = [samples[1].values["energy_allocated_mj"] for samples in one.samples]
    assert at[6] == at[5]
    assert all(later >= earlier for earlier, later in itertools.pairwise(at))
    assert at[8] > at[6]


def test_instances_come_and_go(scene: MakeScene) -> None:
    """A gone one is forgotten, not down; the change ends the label epoch; samples are freed."""
    first, second, third = three()
    later = FakeInstance(0, 2, "MIG-dddd", THREE, 40_448, 3, "3g.40gb", from_s=20.2)
    gone = FakeInstance(0, 1, "MIG-aaaa", THREE, 40_448, 3, "3g.40gb", to_s=20.2)
    gpu = divided(gone, second, third, later)
    for gi in (1, 2, 3, 9):
        programme(gpu, [(0, 0.5, 1700)], gi)
    one = scene(gpu)
    one.run(21)
    epoch = one.records[-1].label_epoch
    device = one.backend.devices()[0]
    device.mig_changed()
    one.run(10)
    assert one.records[-1].label_epoch > epoch
    slots = [slot_text(slot) for slot in one.records[-1].slots]
    assert slots == [
        "0000:1b:00.0", "0000:1b:00.0/2/0", "0000:1b:00.0/3/0", "0000:1b:00.0/9/0",
    ]  # fmt: skip
    assert one.records[-1].values["down_us"] == [0, 0, 0, 0]
    assert gflop_of(one, "MIG-dddd") == pytest.approx(
        integral_gflop([(0, 0.5, 1700)], 21, 30, THREE), rel=0.01
    )
    gpu_gflop = integral_gflop([(0, 0.5, 1700)], 0, 30, THREE + TWO + ONE)
    assert one.last("gflop", 0) == pytest.approx(gpu_gflop, rel=0.05)
    assert first.uuid not in {row.uuid for row in device.facts()}


def test_an_instance_made_anew_with_the_same_name_goes_on_from_nothing(scene: MakeScene) -> None:
    """Its counters begin again although UUID and numbers are the same: no window spans that."""
    gpu = divided(*three())
    for gi in (1, 3, 9):
        programme(gpu, [(0, 0.5, 1700)], gi)
    one = scene(gpu)
    one.run(10)
    one.backend.devices()[0].mig_changed()
    one.tick()
    windows = [sample.flop for sample in one.samples[-1][1:]]
    assert [window.elapsed_us for window in windows if window is not None] == [0, 0, 0]
    one.move(1)
    one.tick()
    assert all(sample.flop and sample.flop.elapsed_us for sample in one.samples[-1][1:])


@pytest.mark.parametrize("stale_code", [2, 6, 15, 28])
def test_a_stale_handle_costs_the_gpu_nothing(scene: MakeScene, stale_code: int) -> None:
    """Without any event: the list is asked for again at once."""
    staying = three()[1]
    gone = FakeInstance(0, 1, "MIG-aaaa", THREE, 40_448, 3, "3g.40gb", to_s=5.5)
    gpu = divided(gone, staying, stale_code=stale_code)
    for gi in (1, 3):
        programme(gpu, [(0, 0.5, 1700)], gi)
    one = scene(gpu)
    one.run(9)
    assert [sample.labels.uuid for sample in one.samples[-1][1:]] == ["MIG-bbbb"]
    assert len(one.samples) == 9


def test_two_compute_instances_share_a_gpu_instance_by_slices(scene: MakeScene) -> None:
    gpu = divided(
        FakeInstance(0, 1, "MIG-aaaa", 32, 40_448, 3, "2c.3g.40gb", ci=0),
        FakeInstance(1, 1, "MIG-bbbb", 28, 40_448, 3, "1c.3g.40gb", ci=1),
    )
    programme(gpu, [(0, 0.5, 1700)], 1)
    one = scene(gpu)
    one.run(11)
    whole, first, second = one.samples[-1]
    assert first.flop is not None
    assert second.flop is not None
    assert whole.flop is not None
    assert first.flop.gflop + second.flop.gflop == pytest.approx(whole.flop.gflop)
    assert unpack_slot(second.labels.slot).ci == 1


def test_the_mode_can_be_switched_while_the_agent_runs(scene: MakeScene) -> None:
    gpu = whole_h100()
    gpu.sets |= {"max_mig": 7, "cycles": 0}
    gpu.instances = [FakeInstance(0, 1, "MIG-aaaa", THREE, 40_448, 3, "3g.40gb", from_s=10)]
    gpu.timeline += [(10, "set mig 1"), (20, "set mig 0")]
    programme(gpu, [(0, 0.5, 1700)])
    programme(gpu, [(10, 0.5, 1700)], 1)
    one = scene(gpu)
    device = one.backend.devices()[0]
    counts: list[int] = []
    for second in range(30):
        if second in {10, 20}:
            device.mig_changed()
        counts.append(len(one.tick()))
        one.move(1)
    assert counts == [1] * 10 + [2] * 10 + [1] * 10
    assert "gpu_utilization" in one.samples[-1][0].values


def test_without_gpm_all_goes_by_slices_and_nothing_is_invented(scene: MakeScene) -> None:
    """An A100: its instances have memory, and an allocation."""
    gpu = divided(*three(), gpm=0)
    gpu.name, gpu.pci = "NVIDIA A100-SXM4-80GB", 0x20B2_10DE
    one = scene(gpu)
    one.run(5)
    last = one.samples[-1]
    assert [sample.flop for sample in last] == [None] * 4
    assert [round(s.values["power_allocated_w"]) for s in last[1:]] == [200, 133, 67]
    assert "sm_activity" not in last[1].values
    values = one.records[-1].values
    assert "gflop" not in values
    assert list(values["observed_us"])[1:] == [0, 0, 0]


def test_a_gpu_that_gives_no_activity_of_its_own_has_its_instances(scene: MakeScene) -> None:
    gpu = divided(*three())
    for gi in (1, 3, 9):
        programme(gpu, [(0, 0.5, 1700)], gi)
    gpu.fails["nvmlGpmSampleGet"] = 3
    one = scene(gpu)
    one.run(11)
    whole = one.samples[-1][0]
    sms = THREE + TWO + ONE
    assert whole.values["sm_activity"] == pytest.approx(0.5 * sms / 132)
    assert one.last("gflop", 0) == pytest.approx(
        integral_gflop([(0, 0.5, 1700)], 0, 10, sms), rel=WITHIN
    )
    assert one.last("gflop_measured_us", 0) == pytest.approx(10e6 * sms / 132, rel=1e-3)


def test_a_gpu_that_disagrees_with_its_instances_is_flagged(scene: MakeScene) -> None:
    gpu = divided(*three())
    for gi in (1, 3, 9):
        programme(gpu, [(0, 0.5, 1700)], gi)
    gpu.gpm |= {2: 0.9, 5: 0.8, 7: 0.8}
    one = scene(gpu)
    one.run(5)
    assert int(one.last("flop_flags", 0)) & FlopFlag.PARENT_MISMATCH
