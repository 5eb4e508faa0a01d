"""Recordings read: the dialects of nvidia-smi, and what is broken in them."""

from __future__ import annotations

import gzip
from datetime import UTC
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from collectors.contract.identity import slot_text
from collectors.replay.csvlog import CsvLog, learn_header, parse_time
from collectors.replay.quantities import absent, quantity
from collectors.replay.recording import Recording, node_name
from collectors.replay.samples import Rejects, Sample
from collectors.replay.source import check_model, find_zone
from collectors.replay.xmllog import XmlLog, smi_time

CAPTURES = Path(__file__).parents[1] / "captures"


def read_csv(text: str, tmp_path: Path, zone: str = "UTC") -> tuple[list[Sample], Rejects]:
    path = tmp_path / "log.csv"
    path.write_text(text, encoding="utf-8")
    rejects = Rejects()
    return list(CsvLog(find_zone(zone))(path, rejects)), rejects


def read_xml(name: str) -> dict[str, Sample]:
    rejects = Rejects()
    samples = list(XmlLog(UTC)(CAPTURES / name, rejects))
    assert rejects.total == 0
    return {slot_text(sample.labels.slot): sample for sample in samples}


def test_log_with_index_only() -> None:
    rejects = Rejects()
    samples = list(CsvLog(UTC)(CAPTURES / "nanogpt_8gpu.csv", rejects))
    assert len(samples) == 160
    assert rejects.total == 0
    first = samples[0]
    assert first.time_us == 1_758_682_623_946_000
    assert slot_text(first.labels.slot) == "0000:01:00.0"
    assert slot_text(samples[7].labels.slot) == "0000:08:00.0"
    assert first.values == {"gpu_temperature_c": 42, "gpu_utilization": 1.0, "power_w": 390.78}


def test_fast_log_in_local_time_without_index() -> None:
    rejects = Rejects()
    samples = list(CsvLog(ZoneInfo("Europe/London"))(CAPTURES / "a100_square_wave.csv", rejects))
    assert len(samples) == 120
    assert samples[0].time_us == 1_690_734_482_589_000
    assert samples[0].values == {
        "power_w": 78.66, "gpu_utilization": 0.0, "performance_state": 0,
        "gpu_temperature_c": 53, "sm_clock_mhz": 1410,
    }  # fmt: skip


def test_instant_and_average_power_are_kept_apart() -> None:
    [first, *_] = CsvLog(UTC)(CAPTURES / "rtx3090_square_wave.csv", Rejects())
    assert first.values["power_w"] == 136.57
    assert first.values["power_average_w"] == 137.12


def test_units_in_cells_and_identity_columns(tmp_path: Path) -> None:
    samples, rejects = read_csv(
        "timestamp, index, name, uuid, serial, pci.bus_id, utilization.gpu [%], memory.used [MiB],"
        " memory.total [MiB], power.draw [W], clocks.current.sm [MHz], fan.speed [%], pstate,"
        " temperature.gpu.tlimit, ecc.errors.uncorrected.volatile.total\n"
        "2026/03/05 12:00:00.250, 3, NVIDIA H100 80GB HBM3, GPU-a, 165, 00000000:1B:00.0, 97 %,"
        " 40536 MiB, 81559 MiB, 390.78 W, 1755 MHz, [N/A], P0, 26, 4\n",
        tmp_path,
    )
    assert rejects.total == 0
    [sample] = samples
    assert slot_text(sample.labels.slot) == "0000:1b:00.0"
    assert (sample.labels.uuid, sample.labels.serial) == ("GPU-a", "165")
    assert sample.labels.model == "NVIDIA H100 80GB HBM3"
    assert sample.values == {
        "gpu_utilization": 0.97, "memory_used_bytes": 40536 * 2**20,
        "memory_total_bytes": 81559 * 2**20, "power_w": 390.78, "sm_clock_mhz": 1755,
        "performance_state": 0, "thermal_margin_c": 26, "ecc_uncorrected": 4,
    }  # fmt: skip


@pytest.mark.parametrize(
    "word",
    ["[N/A]", "N/A", "[Not Supported]", "Requested functionality has been deprecated",
     "[Unknown Error]", "[GPU is lost]", "", "[Insufficient Permissions]"],
)  # fmt: skip
def test_words_for_absent(word: str, tmp_path: Path) -> None:
    assert absent(word)
    samples, rejects = read_csv(
        f"timestamp,index,power.draw [W],temperature.gpu\n2026-01-01T00:00:00Z,0,{word},30\n",
        tmp_path,
    )
    assert samples[0].values == {"gpu_temperature_c": 30}
    assert rejects.total == 0


def test_broken_rows_are_counted_named_and_stop_nothing(tmp_path: Path) -> None:
    samples, rejects = read_csv(
        "timestamp,index,power.draw [W]\n"
        "2026-01-01T00:00:00Z,0,100\n"
        "2026-01-01T00:00:01Z,0\n"
        "yesterday,0,100\n"
        '2026-01-01T00:00:02Z,0,"10\n'
        "\n"
        "2026-01-01T00:00:03Z,zero,100\n"
        "timestamp,index,power.draw [W]\n"
        "2026-01-01T00:00:04Z,0,\x00101\n"
        "2026-01-01T00:00:05Z,9999,101\n"
        "2026-01-01T00:00:05Z,99999999,101\n"
        "99999999999,0,101\n",
        tmp_path,
    )
    assert [sample.values for sample in samples] == [{"power_w": 100}, {}, {"power_w": 101}]
    assert rejects.counts == {"columns": 1, "broken": 5, "cell": 1}
    assert rejects.first["columns"].startswith("log.csv:3")
    assert "log.csv:4" in rejects.first["broken"]


def test_unknown_columns_are_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = "timestamp,index,power.draw [W],clocks.gr [MHz]\n" + "2026-01-01T00:00:00Z,0,1,5\n" * 9
    with caplog.at_level("INFO"):
        samples, _ = read_csv(text + text, tmp_path)
    assert len(samples) == 18
    assert [record.message for record in caplog.records] == [
        "column_unknown file=log.csv name=clocks.gr [MHz]"
    ]


def test_catalogue_names_are_column_names() -> None:
    header = learn_header(["timestamp", "index", "tensor_activity", "energy_mj"])
    assert [name for _, name, _ in header.metrics] == ["tensor_activity", "energy_mj"]


def test_what_stands_before_the_header_is_passed_over(tmp_path: Path) -> None:
    samples, rejects = read_csv(
        "\nnohup: ignoring input\ntimestamp,index,power.draw [W]\n1767225600123,0,100\n", tmp_path
    )
    assert [(sample.time_us, sample.values) for sample in samples] == [
        (1_767_225_600_123_000, {"power_w": 100})
    ]
    assert rejects.counts == {"before the header": 1}


@pytest.mark.parametrize("text", ["", "hello,world\n1,2\n", "timestamp,index\n", "power.draw\n3\n"])
def test_other_files_are_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not an nvidia-smi log"):
        read_csv(text, tmp_path)


def test_truncated_gzip_gives_what_it_has(tmp_path: Path) -> None:
    text = "timestamp,index,power.draw [W]\n" + "".join(
        f"2026-01-01T00:00:{second:02d}Z,0,{second * 7919 % 997}\n" for second in range(60)
    )
    whole = gzip.compress(text.encode())
    path = tmp_path / "log.csv.gz"
    path.write_bytes(whole[: len(whole) * 3 // 4])
    rejects = Rejects()
    samples = list(CsvLog(UTC)(path, rejects))
    assert 0 < len(samples) < 60
    assert rejects.counts["truncated"] == 1


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [("390.78 W", "", 390.78), ("390.78", "W", 390.78), ("97 %", "", 0.97), ("97", "%", 0.97),
     ("40536 MiB", "", 40536 * 2**20), ("P8", "", 8), ("45 C", "", 45), ("-2 C", "", -2),
     ("Yes", "", 1), ("No", "", 0), ("1755 MHz", "", 1755), ("9840338777 us", "", 9840338777),
     ("1.5e3", "W", 1500)],
)  # fmt: skip
def test_quantities(text: str, unit: str, value: float) -> None:
    assert quantity(text, unit) == value


@pytest.mark.parametrize("text", ["x", "12 parsecs", "W", "1 2", "1e999 W", "--", "1,5"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match=r"quantity|unit"):
        quantity(text)


@pytest.mark.parametrize(
    ("text", "zone", "time_us"),
    [("2025-09-24T02:57:03.946Z", "UTC", 1_758_682_623_946_000),
     ("2025/09/24 02:57:03.946", "UTC", 1_758_682_623_946_000),
     ("2025/09/24 10:57:03.946", "Asia/Hong_Kong", 1_758_682_623_946_000),
     ("2025-09-24T04:57:03.946+02:00", "Asia/Hong_Kong", 1_758_682_623_946_000),
     ("1758682623.946", "UTC", 1_758_682_623_946_000)],
)  # fmt: skip
def test_times(text: str, zone: str, time_us: int) -> None:
    assert parse_time(text, find_zone(zone)) == time_us


def test_time_of_an_xml_snapshot() -> None:
    assert smi_time("Mon Apr 14 12:55:43 2025", UTC) == 1_744_635_343_000_000
    assert smi_time("Fri Aug  4 11:44:30 2023", UTC) == 1_691_149_470_000_000


def test_wrong_zone_and_model_say_what_to_write() -> None:
    with pytest.raises(ValueError, match="Europe/Berlin"):
        find_zone("Middle/Earth")
    with pytest.raises(ValueError, match="H100-SXM"):
        check_model("H100-SMX")
    assert check_model("H100-SXM") == "H100-SXM"


def test_eight_h100() -> None:
    samples = read_xml("aicr_h100x8.xml")
    assert len(samples) == 8
    first = samples["0000:04:00.0"]
    assert first.labels.uuid == "GPU-ab6ab95d-8259-5551-5962-e4a7a710fbae"
    assert first.values["power_w"] == 70.93
    assert first.values["thermal_margin_c"] == 54
    assert first.values["memory_temperature_c"] == 40
    assert first.values["pcie_replay"] == 3
    assert (first.values["ecc_corrected"], first.values["ecc_uncorrected"]) == (0, 0)
    assert "fan_speed" not in first.values


def test_mig_instances_are_slots_of_their_own() -> None:
    samples = read_xml("telegraf_a100-sxm4-v12.xml")
    assert set(samples) == {"0000:01:00.0"} | {f"0000:01:00.0/{gi}/0" for gi in (3, 4, 5, 6)}
    assert samples["0000:01:00.0"].values["power_w"] == 67.03
    assert "gpu_utilization" not in samples["0000:01:00.0"].values
    assert samples["0000:01:00.0/3/0"].values == {
        "memory_used_bytes": 12 * 2**20, "memory_total_bytes": 19968 * 2**20,
    }  # fmt: skip


def test_vgpu_guest_has_no_temperature_of_zero() -> None:
    [sample] = read_xml("telegraf_tesla_p4.xml").values()
    assert not {"gpu_temperature_c", "power_w", "sm_clock_mhz"} & sample.values.keys()
    assert sample.values["gpu_utilization"] == 0.0


def test_two_gpus_with_one_uuid_stay_two() -> None:
    samples = read_xml("telegraf_dual_2080-v13.xml")
    assert [samples[slot].values["power_w"] for slot in sorted(samples)] == [1.0, 1.62]
    assert len({sample.labels.uuid for sample in samples.values()}) == 1


def test_instant_power_limits_and_throttle_times_of_v13() -> None:
    [sample] = read_xml("telegraf_rtx-3080-v13.xml").values()
    values = sample.values
    assert (values["power_w"], values["power_average_w"]) == (142.33, 139.62)
    assert (values["power_limit_w"], values["gpu_utilization"]) == (320.0, 0.65)
    assert values["throttle_power_cap_us"] == 0
    assert sample.labels.serial == ""


def test_several_documents_in_a_row_and_a_broken_one(tmp_path: Path) -> None:
    text = (CAPTURES / "telegraf_a10g.xml").read_text()
    broken = text.replace("</utilization>", "", 1)
    path = tmp_path / "loop.xml"
    path.write_text(text + broken + text + text[: len(text) // 2])
    rejects = Rejects()
    assert len(list(XmlLog(UTC)(path, rejects))) == 2
    assert rejects.counts == {"broken": 1, "truncated": 1}


def test_undated_snapshot_needs_a_time() -> None:
    recording = Recording([CAPTURES / "telegraf_gtx-1070-ti.xml"], zone=UTC)
    assert recording.survey(undated_us=5_000_000).last_us == 5_000_000
    with pytest.raises(ValueError, match="keep-time"):
        recording.survey(undated_us=None)


@pytest.mark.parametrize(
    ("name", "node"),
    [("g150.csv.gz", "g150"), ("a.b.xml", "a.b"), ("n1", "n1"), (".csv", ".csv")],
)
def test_node_by_file(name: str, node: str) -> None:
    assert node_name(Path(name)) == node
