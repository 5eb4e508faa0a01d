"""A node through its exporter: GPUs that go and come, XIDs, energy, facts."""

from __future__ import annotations

from collections.abc import Mapping

from exporter_pages import dcgm_page, gpu_labels, line

from collectors.contract.catalogue import COUNTER_ABSENT
from collectors.contract.identity import slot_text
from collectors.contract.record import Origin
from collectors.kit.clock import SystemClock
from collectors.scrape.node import ScrapedNode, Taken
from collectors.scrape.page import PageReader

GPU = {"power": 300.0, "energy_mj": 5e6, "clock_mhz": 1400.0, "utilization": 0.5, "xid": 0.0}


class Played:
    """Pages by hand, one each 15 s."""

    def __init__(self) -> None:
        self.node = ScrapedNode("n1", "dcgm-exporter", SystemClock(), 15.0, None)
        self.reader, self.time_us = PageReader(), 1_700_000_000_000_000

    def show(self, gpus: Mapping[int, Mapping[str, float]], more: str = "") -> Taken:
        """What the next page amounts to."""
        self.time_us += 15_000_000
        moving = {
            index: {**values, "energy_mj": values["energy_mj"] + self.time_us % 10**9 / 1e3}
            for index, values in gpus.items()
        }
        return self.node.take(self.reader.read(dcgm_page(moving) + more.encode()), self.time_us)


def kinds(taken: Taken) -> list[tuple[str, str, int | None]]:
    return [(event.kind, event.slot, event.code) for event in taken.events]


def test_a_gpu_that_its_exporter_shows_no_longer_is_down_until_it_is_back() -> None:
    played = Played()
    first = played.show({0: GPU, 1: GPU}).record
    gone = played.show({0: GPU})
    back = played.show({0: GPU, 1: GPU})
    assert first is not None
    assert gone.record is not None
    assert back.record is not None
    assert first.origin is Origin.MEASURED
    assert [slot_text(slot) for slot in gone.record.slots] == ["0000:10:00.0", "0000:11:00.0"]
    assert list(gone.record.values["down_us"]) == [0, 15_000_000]
    assert gone.record.values["energy_mj"][1] == COUNTER_ABSENT
    assert kinds(gone) == [("gpu_lost", "0000:11:00.0", None)]
    assert kinds(back) == [("gpu_recovered", "0000:11:00.0", None)]
    assert gone.facts is not None
    assert [gpu.state for gpu in gone.facts.gpus] == ["ok", "lost"]


def test_a_page_without_gpus_is_no_news() -> None:
    played = Played()
    played.show({0: GPU})
    assert played.show({}).record is None
    assert played.show({0: GPU}).events == []


def test_instances_that_are_dissolved_are_not_lost() -> None:
    played = Played()
    divided = line("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", gpu_labels(0, GPU_I_ID="3"), 0.5)
    first = played.show({0: GPU}, divided)
    assert first.record is not None
    assert len(first.record.slots) == 2
    after = played.show({0: GPU})
    assert after.record is not None
    assert len(after.record.slots) == 1
    assert after.events == []


def test_an_xid_is_told_when_it_comes_and_not_when_nobody_knows_when_it_came() -> None:
    played = Played()
    assert played.show({0: {**GPU, "xid": 31.0}}).events == []
    assert played.show({0: {**GPU, "xid": 31.0}}).events == []
    [event] = played.show({0: {**GPU, "xid": 79.0}}).events
    assert (event.kind, event.code, event.slot) == ("xid", 79, "0000:10:00.0")
    assert (event.source, event.concerns) == ("exporter", "operator")
    assert played.show({0: {**GPU, "xid": 0.0}}).events == []


def test_the_exporters_own_count_of_xids_goes_before_the_last_one() -> None:
    def count(number: int) -> str:
        return line("DCGM_EXP_XID_ERRORS_TOTAL", gpu_labels(0, xid="13"), number)

    played = Played()
    played.show({0: GPU}, count(4))
    assert kinds(played.show({0: {**GPU, "xid": 13.0}}, count(5))) == [("xid", "0000:10:00.0", 13)]
    assert played.show({0: {**GPU, "xid": 13.0}}, count(5)).events == []


def test_energy_that_falls_is_another_epoch_and_another_life_the_same() -> None:
    played, other = Played(), Played()
    first = played.show({0: {**GPU, "energy_mj": 9e9}}).record
    fallen = played.show({0: GPU}).record
    later = other.show({0: {**GPU, "energy_mj": 9.5e9}}).record
    assert first is not None
    assert fallen is not None
    assert later is not None
    assert first.energy_epochs == later.energy_epochs != fallen.energy_epochs
    assert fallen.label_epoch > first.label_epoch
    assert first.run != later.run


def test_facts_say_what_cannot_be_had_and_why() -> None:
    facts = Played().show({0: GPU}).facts
    assert facts is not None
    [gpu] = facts.gpus
    assert (facts.source, facts.interval_s, gpu.number, gpu.sm_count) == ("scrape", 15.0, 0, 108)
    assert gpu.flop_method == "util_clock"
    assert "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE" in gpu.flop_reason
    assert gpu.unsupported["tensor_activity"] == "not offered by dcgm-exporter"
    assert "power_w" not in gpu.unsupported
    measured = Played().show({0: {**GPU, "tensor": 0.4}}).facts
    assert measured is not None
    assert (measured.gpus[0].flop_method, measured.gpus[0].flop_reason) == ("dcgm_pipe", "")


def test_a_gpu_that_gets_its_address_is_not_two() -> None:
    played = Played()
    played.show({}, line("DCGM_FI_DEV_POWER_USAGE", {"gpu": "0", "UUID": "GPU-00000000"}, 300))
    after = played.show({0: GPU})
    assert after.record is not None
    assert [slot_text(slot) for slot in after.record.slots] == ["0000:10:00.0"]
    assert after.events == []
