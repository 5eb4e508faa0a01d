"""What becomes of FLOP windows and MIG instances in an agent's records."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.agent.assembler import NodeAssembler, Reading
from collectors.contract.flop import FlopFlag, FlopMethod, FlopWindow
from collectors.contract.identity import Slot, new_run, pack_slot
from collectors.contract.record import NodeRecord, Origin, SlotLabels

T0 = 1_790_000_000_000_000
GPU = pack_slot(Slot(0, 1, 0, 0))
PART, OTHER = (pack_slot(Slot(0, 1, 0, 0, gi, 0)) for gi in (1, 2))
SECOND_US = 1_000_000
H100 = "NVIDIA H100 80GB HBM3"


def assembler() -> NodeAssembler:
    return NodeAssembler("n1", Origin.MEASURED, new_run(T0, 1), longest_gap_us=5 * SECOND_US)


def window(gflop: float = 100.0, elapsed_us: int = SECOND_US) -> FlopWindow:
    return FlopWindow(FlopMethod.PIPE, elapsed_us, gflop, gflop * 0.95, gflop * 1.05)


def reading(
    slot: int = GPU, flop: FlopWindow | None = None, uuid: str = "", **values: float
) -> Reading:
    return Reading(SlotLabels(slot, uuid or f"u{slot}", H100), 1, values, flop)


def run(ticks: Sequence[Sequence[Reading]], step_us: int = SECOND_US) -> list[NodeRecord]:
    one = assembler()
    return [one.assemble(T0 + n * step_us, readings) for n, readings in enumerate(ticks)]


def test_windows_add_up_from_the_second_record_on() -> None:
    """The first window is of time before the run."""
    records = run([[reading(flop=window())] for _ in range(4)])
    assert [record.values["gflop"] for record in records] == [[0], [100], [200], [300]]
    assert records[-1].values["gflop_lo"] == [285]
    assert records[-1].values["gflop_measured_us"] == [3 * SECOND_US]
    assert records[-1].values["flop_method"] == [FlopMethod.PIPE]


def test_a_window_after_a_gap_of_the_run_is_left_out() -> None:
    one = assembler()
    one.assemble(T0, [reading(flop=window())])
    later = one.assemble(T0 + 60 * SECOND_US, [reading(flop=window(6000.0, 60 * SECOND_US))])
    assert later.values["gflop"] == [0]


def test_a_window_that_does_not_count_says_so_and_adds_nothing() -> None:
    doubtful = FlopWindow(FlopMethod.PIPE, 0, 0.0, 0.0, 0.0, FlopFlag.IMPOSSIBLE_RATE)
    records = run([[reading(flop=window())], [reading(flop=window())], [reading(flop=doubtful)]])
    last = records[-1].values
    assert (last["gflop"], last["gflop_measured_us"]) == ([100], [SECOND_US])
    assert last["flop_flags"] == [FlopFlag.IMPOSSIBLE_RATE]
    assert "sm_clock_mean_mhz" not in last


def test_a_measured_gpu_is_not_estimated_for_a_missing_window() -> None:
    measured = [[reading(flop=window(), gpu_utilization=1.0, sm_clock_mhz=1700.0)]] * 3
    missing = [[reading(gpu_utilization=1.0, sm_clock_mhz=1700.0)]]
    assert "gflop_estimated" not in run(measured + missing * 5)[-1].values
    long = run(measured + missing * 20)[-1].values
    assert long["gflop_estimated"][0] > 0
    assert long["flop_method"] == [FlopMethod.ESTIMATE]


def test_fp64_and_int8_have_counters_of_their_own() -> None:
    both = window()._replace(fp64_gflop=7.5, int8_gop=9.25)
    last = run([[reading(flop=both)]] * 3)[-1].values
    assert (last["gflop_fp64"], last["giop_int8"], last["gflop"]) == ([15], [18], [200])


def test_an_instance_that_goes_is_forgotten_and_goes_on_when_it_is_back() -> None:
    with_part = [reading(flop=window()), reading(PART, window(10.0), sm_activity=0.5)]
    alone = [reading(flop=window())]
    records = run([with_part] * 3 + [alone] * 3 + [with_part] * 3)
    epochs = [record.label_epoch for record in records]
    assert [epoch - epochs[0] for epoch in epochs] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert records[4].slots == [GPU]
    counters = [record.values["gflop"][1] for record in (*records[:3], *records[6:])]
    assert counters == [0, 10, 20, 20, 30, 40]
    observed = [
        record.values["observed_us"][1] // SECOND_US for record in (*records[:3], *records[6:])
    ]
    assert observed == [0, 1, 2, 2, 3, 4]
    assert records[-1].values["down_us"] == [0, 0]


def test_instances_that_change_places_in_one_tick_end_the_epoch_once() -> None:
    before, after = [reading(), reading(PART)], [reading(), reading(OTHER)]
    records = run([before] * 2 + [after] * 2)
    assert records[2].label_epoch == records[1].label_epoch + 1
    assert records[3].label_epoch == records[2].label_epoch
    assert {label.slot for label in records[2].labels} == {GPU, OTHER}


def any_window(method: FlopMethod, us: int, gflop: float, flags: FlopFlag) -> FlopWindow:
    return FlopWindow(method, us, gflop, gflop * 0.9, gflop * 1.1, flags)


windows = st.none() | st.builds(
    any_window,
    st.sampled_from(list(FlopMethod)),
    st.integers(0, 3 * SECOND_US),
    st.floats(0, 1e7),
    st.sampled_from(list(FlopFlag)),
)
steps = st.lists(
    st.tuples(windows, st.lists(st.sampled_from([PART, OTHER]), unique=True), st.booleans()),
    min_size=1, max_size=20,
)  # fmt: skip


@given(steps, st.integers(1, 8 * SECOND_US))
def test_no_counter_falls_and_coverage_is_at_most_what_passed(
    given_steps: list[tuple[FlopWindow | None, list[int], bool]], step_us: int
) -> None:
    ticks = [
        [Reading(SlotLabels(slot, f"u{slot}", H100), 1, {} if there else None, flop if there else None)
         for slot in sorted([GPU, *parts])]
        for flop, parts, there in given_steps
    ]  # fmt: skip
    before: dict[tuple[int, str], float] = {}
    for number, record in enumerate(run(ticks, step_us)):
        values = record.values
        for at, slot in enumerate(record.slots):
            now = {name: values[name][at] for name in values if name.startswith("gflop")}
            if now.get("gflop", 2**64 - 1) == 2**64 - 1:
                continue
            assert now["gflop_lo"] <= now["gflop"] <= now["gflop_hi"]
            assert now["gflop_measured_us"] <= number * step_us
            for name in ("gflop", "gflop_measured_us"):
                assert now[name] >= before.get((slot, name), 0)
                before[slot, name] = now[name]


@pytest.mark.parametrize("model", ["NVIDIA X999", "NVIDIA H20"])
def test_without_rates_the_method_is_none(model: str) -> None:
    values = {"gpu_utilization": 1.0, "tensor_activity": 0.9, "sm_clock_mhz": 1700.0}
    one = Reading(SlotLabels(GPU, "u", model), 1, values)
    last = run([[one]] * 3)[-1].values
    assert last["flop_method"] == [FlopMethod.NONE]
    assert not {"gflop", "gflop_estimated"} & last.keys()
