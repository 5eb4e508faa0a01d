"""Pages: names and units of all ages, identity, instances, holders, and what is no value."""

from __future__ import annotations

from collections import Counter

import pytest
from exporter_pages import AGES, MODEL, dcgm_page, gpu_labels, line
from hypothesis import given
from hypothesis import strategies as st

from collectors.contract.catalogue import CATALOGUE
from collectors.contract.identity import slot_text
from collectors.scrape import names
from collectors.scrape.page import Page, PageReader
from collectors.scrape.series import Holder, made_up_slot, parse_series
from collectors.scrape.values import blank, catalogue_values

GPU = {
    "power": 312.5, "energy_mj": 123_456_789_000, "temperature": 61, "clock_mhz": 1410,
    "utilization": 0.97, "used_bytes": 40_000 * 2**20, "tensor": 0.42, "sm": 0.9, "capped_s": 12.5,
}  # fmt: skip
VALUES = {
    "power_w": 312.5, "energy_mj": 123_456_789_000, "gpu_temperature_c": 61, "sm_clock_mhz": 1410,
    "gpu_utilization": 0.97, "memory_used_bytes": 40_000 * 2**20, "tensor_activity": 0.42,
    "sm_activity": 0.9, "throttle_power_cap_us": 12_500_000,
}  # fmt: skip


def read(text: str | bytes) -> Page:
    return PageReader().read(text if isinstance(text, bytes) else text.encode())


def values_of(page: Page, position: int = 0) -> dict[str, float]:
    return catalogue_values(page.gpus[position].values, page.percent, Counter())


@pytest.mark.parametrize("age", AGES)
def test_all_ages_say_the_same(age: str) -> None:
    page = read(dcgm_page({0: GPU, 1: GPU}, age))
    assert (page.exporter, page.host) == ("dcgm-exporter", "n1")
    assert [slot_text(gpu.slot) for gpu in page.gpus] == ["0000:10:00.0", "0000:11:00.0"]
    assert values_of(page) == pytest.approx(VALUES)
    assert page.gpus[1].place.labels.uuid == "GPU-00000001"
    assert page.gpus[1].place.labels.model == MODEL


@pytest.mark.parametrize("age", AGES)
def test_a_second_reading_is_by_what_was_learnt(age: str) -> None:
    reader = PageReader()
    reader.read(dcgm_page({0: GPU}, age))
    page = reader.read(dcgm_page({0: {**GPU, "power": 100.25}}, age))
    assert values_of(page) == pytest.approx({**VALUES, "power_w": 100.25})


def test_every_name_leads_into_the_catalogue() -> None:
    """Directly, or as a part of what `catalogue_values` makes of it."""
    parts = {
        "power_draw_w", "gpu_utilization_or_percent", "memory_free_bytes", "memory_reserved_bytes",
        "xid_last", "throttle_thermal_us", "engine_activity", *names.RATES,
        "nvlink_errors_flit", "nvlink_errors_data", "nvlink_errors_replay", "nvlink_errors_recovery",
    }  # fmt: skip
    tables = (names.DCGM_DEVICE, names.DCGM_PROFILING, names.SMI)
    for table in tables:
        for series, name in table.items():
            assert name.metric in CATALOGUE.by_name or name.metric in parts, series


def util(value: str, help_text: str = "", more: str = "") -> Page:
    head = f"# HELP DCGM_FI_DEV_GPU_UTIL_RATIO {help_text}\n" if help_text else ""
    return read(head + line("DCGM_FI_DEV_GPU_UTIL_RATIO", gpu_labels(0), value) + more)


def test_a_ratio_that_may_be_a_percentage_is_not_guessed() -> None:
    """DCGM 4.6 has the new name for the old percentage, 4.7 for a ratio: `1` is either."""
    newer = line("DCGM_FI_DEV_FB_USED_BYTES", gpu_labels(0), 5)
    assert "gpu_utilization" not in values_of(util("1"))
    assert values_of(util("0"))["gpu_utilization"] == 0
    assert values_of(util("97"))["gpu_utilization"] == 0.97
    assert values_of(util("1", "GPU utilization (in %)."))["gpu_utilization"] == 0.01
    assert values_of(util("1", more=newer))["gpu_utilization"] == 1


def test_one_percentage_tells_of_all_later_ones() -> None:
    reader = PageReader()
    reader.read(line("DCGM_FI_DEV_GPU_UTIL_RATIO", gpu_labels(0), 97).encode())
    page = reader.read(line("DCGM_FI_DEV_GPU_UTIL_RATIO", gpu_labels(0), 1).encode())
    assert values_of(page)["gpu_utilization"] == 0.01


BLANKS = (
    "9223372036854775792", "9223372036854775793", "9223372036854775794", "9223372036854775795",
    "9.223372036854775794e+18", "2147483632", "2147483634", "4294967295", "18446744073709551615",
    "140737488355328.000000", "140737488355330", "NaN", "+Inf", "N/A", "ERR!", "",
)  # fmt: skip


@pytest.mark.parametrize("text", BLANKS)
@pytest.mark.parametrize("age", AGES)
def test_blanks_are_no_values(text: str, age: str) -> None:
    lines = [line(series, gpu_labels(0), text) for series, _ in AGES[age].values()]
    page = read("".join(lines))
    assert len(page.gpus) == 1
    assert values_of(page) == {}
    assert page.rejects["blank"] == len(AGES[age])


@given(st.floats(-1e6, 2_147_483_631.0) | st.integers(2**31, 2**32 - 2) | st.integers(2**32, 2**46))
def test_what_is_no_blank_is_kept(value: float) -> None:
    assert not blank(value)


@pytest.mark.parametrize("series", ["DCGM_FI_DEV_GPU_TEMP", "DCGM_FI_DEV_MEMORY_TEMP",
                                    "DCGM_FI_DEV_POWER_USAGE", "DCGM_FI_DEV_SM_CLOCK",
                                    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"])  # fmt: skip
def test_nothing_of_what_a_gpu_always_has_is_a_missing_sensor(series: str) -> None:
    assert values_of(read(line(series, gpu_labels(0), 0))) == {}


def test_what_cannot_be_is_left_out_and_counted() -> None:
    page = read(line("DCGM_FI_DEV_GPU_TEMP", gpu_labels(0), 4711)
                + line("DCGM_FI_PROF_SM_ACTIVE", gpu_labels(0), -0.5))  # fmt: skip
    rejects: Counter[str] = Counter()
    assert catalogue_values(page.gpus[0].values, page.percent, rejects) == {}
    assert rejects == {"gpu_temperature_c": 1, "sm_activity": 1}


def test_power_and_thermal_times_that_are_told_apart_or_not() -> None:
    labels = gpu_labels(0)
    text = (line("DCGM_FI_DEV_POWER_USAGE", labels, 300)
            + line("DCGM_FI_DEV_POWER_USAGE_INSTANT", labels, 310)
            + line("DCGM_FI_DEV_THERMAL_VIOLATION", labels, 5_000_000))  # fmt: skip
    assert values_of(read(text)) == {
        "power_w": 310, "power_average_w": 300, "throttle_sw_thermal_us": 5_000
    }  # fmt: skip
    apart = text + line("DCGM_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN_NS", labels, 3_000)
    assert values_of(read(apart))["throttle_hw_thermal_us"] == 3
    assert "throttle_sw_thermal_us" not in values_of(read(apart))


def test_instances_have_their_own_and_their_gpu_has_the_shared_once() -> None:
    """As dcgm-exporter writes a divided GPU: everything once an instance, power and all."""
    one = gpu_labels(0, GPU_I_PROFILE="1g.10gb", GPU_I_ID="3", pod="a", namespace="x")
    two = gpu_labels(0, GPU_I_PROFILE="2g.20gb", GPU_I_ID="5")
    text = "".join(
        line(series, labels, value)
        for labels, tensor in ((one, 0.5), (two, 0.25))
        for series, value in (
            ("DCGM_FI_DEV_POWER_USAGE", 200), ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", 5_000),
            ("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", tensor), ("DCGM_FI_DEV_FB_USED", 100),
        )
    )  # fmt: skip
    page = read(text)
    found = {slot_text(gpu.slot): values_of(page, i) for i, gpu in enumerate(page.gpus)}
    assert found == {
        "0000:10:00.0": {"power_w": 200, "energy_mj": 5_000},
        "0000:10:00.0/3/0": {"tensor_activity": 0.5, "memory_used_bytes": 100 * 2**20},
        "0000:10:00.0/5/0": {"tensor_activity": 0.25, "memory_used_bytes": 100 * 2**20},
    }
    whole, first, second = page.gpus
    assert (whole.holders, second.holders) == (set(), set())
    assert first.holders == {Holder("kubernetes", "a", "x")}
    assert (first.place.parent, first.place.profile) == (whole.slot, "1g.10gb")


def test_jobs_that_share_a_gpu_do_not_double_it() -> None:
    text = "".join(
        line("DCGM_FI_DEV_POWER_USAGE", gpu_labels(0, hpc_job=job), 300) for job in ("17", "18")
    )
    page = read(text)
    assert values_of(page) == {"power_w": 300}
    assert page.gpus[0].holders == {Holder("slurm", "17"), Holder("slurm", "18")}


def test_a_pod_that_ends_holds_no_longer() -> None:
    reader = PageReader()
    held = gpu_labels(0, pod="p", namespace="n", container="c")
    page = reader.read(line("DCGM_FI_DEV_POWER_USAGE", held, 300).encode())
    assert {holder.text for holder in page.gpus[0].holders} == {"n/p"}
    page = reader.read(line("DCGM_FI_DEV_POWER_USAGE", gpu_labels(0), 300).encode())
    assert page.gpus[0].holders == set()


def test_lines_of_links_and_switches_are_not_the_gpus() -> None:
    text = (line("DCGM_FI_DEV_POWER_USAGE", gpu_labels(0), 300)
            + line("DCGM_FI_DEV_NVLINK_COUNT_TX_BYTES", gpu_labels(0, nvlink="3"), 7)
            + line("DCGM_FI_DEV_GPU_TEMP", {"nvswitch": "0", "gpu": "0"}, 7))  # fmt: skip
    assert values_of(read(text)) == {"power_w": 300}


def test_identity_without_an_address() -> None:
    by_number = read(line("DCGM_FI_DEV_GPU_TEMP", {"gpu": "3", "UUID": "GPU-a"}, 30))
    assert slot_text(by_number.gpus[0].slot) == "0000:04:00.0"
    bare = "11111111-2222-3333-4444-555555555555"
    by_uuid = read(line("nvidia_smi_temperature_gpu", {"uuid": bare}, 30))
    place = by_uuid.gpus[0].place
    assert place.labels.uuid == f"GPU-{bare}"
    assert place.labels.slot == made_up_slot(f"GPU-{bare}")
    assert slot_text(place.labels.slot).startswith("ffff")
    nameless = line("DCGM_FI_DEV_GPU_TEMP", {"x": "y"}, 30)
    assert read(nameless).gpus == []


def test_time_stamps_and_odd_line_ends() -> None:
    reader = PageReader()
    for value, stamp in ((30, 1700000000000), (31, 1700000015000)):
        text = f'DCGM_FI_DEV_GPU_TEMP{{gpu="0"}} {value} {stamp}\r\n'
        assert values_of(reader.read(text.encode())) == {"gpu_temperature_c": value}


def test_an_exporter_that_could_not_collect_says_nothing() -> None:
    text = line("nvidia_smi_temperature_gpu", {"uuid": "a"}, 30)
    assert read(text + "nvidia_smi_last_collect_success 1\n").current
    assert not read(text + "nvidia_smi_last_collect_success 0\n").current
    assert not read(text + "nvidia_smi_command_exit_code 9\n").current


@pytest.mark.parametrize("body", [b"", b"<html></html>", b'up{job="x"} 1\n', b"\xff\xfe\x00" * 40])
def test_other_pages_are_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="dcgm-exporter"):
        PageReader().read(body)


@given(st.binary(max_size=400))
def test_nothing_that_a_page_may_hold_breaks_the_reader(junk: bytes) -> None:
    page = PageReader().read(dcgm_page({0: GPU}) + b"\n" + junk)
    assert page.gpus[0].values["power_draw_w"] == 312.5


def test_escapes_in_labels() -> None:
    assert parse_series(r'a{b="x\"y\\z\n",c="}{ "}') == ("a", {"b": 'x"y\\z\n', "c": "}{ "})


def test_lines_that_come_and_go_do_not_fill_the_memory() -> None:
    reader = PageReader(most_lines=100)
    for number in range(1_000):
        held = gpu_labels(0, pod=f"p{number}")
        page = reader.read(line("DCGM_FI_DEV_POWER_USAGE", held, number % 500 + 1).encode())
        assert values_of(page) == {"power_w": number % 500 + 1}
    assert reader.lines <= 101
