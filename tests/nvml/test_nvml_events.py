"""What the driver reports by itself, and the thread that waits for it."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fake_nvml import (
    ECC_DOUBLE,
    GPU_UNAVAILABLE,
    MIG_CHANGED,
    POISON,
    XID,
    FakeEvent,
    FakeInstance,
    FakeNvml,
    eight_gpus,
    whole_h100,
)
from manual_clock import ManualClock

from collectors.contract.identity import slot_text
from collectors.contract.source import (
    DeviceEvent,
    DeviceLostError,
    DriverGoneError,
    UnsupportedError,
)
from collectors.nvml.backend import NvmlBackend

ALL_TYPES = 0xFFFF


@pytest.fixture
def backend() -> Iterator[NvmlBackend]:
    backend = NvmlBackend(ManualClock())
    yield backend
    backend.close()


def heard(backend: NvmlBackend) -> list[DeviceEvent]:
    """What comes within a second or two; the first wait registers."""
    return [event for _ in range(2) for event in backend.wait_events(0.2)]


def test_kinds_codes_slots_and_instances(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    one, other = whole_h100(0x1B), whole_h100(0x3B)
    for gpu in (one, other):
        gpu.sets |= {"events": ALL_TYPES}
    one.sets["mig"] = 1
    one.instances = [FakeInstance(0, 3, "MIG-a")]
    one.events = [FakeEvent(1, XID, 94, gi=3, ci=0), FakeEvent(2, MIG_CHANGED)]
    other.events = [FakeEvent(1, XID, 79), FakeEvent(1, ECC_DOUBLE, 0), FakeEvent(1, POISON, 0),
                    FakeEvent(1, GPU_UNAVAILABLE, 0), FakeEvent(1, 0x400, 0), FakeEvent(1, 0x200, 0),
                    FakeEvent(1, 0x8000, 2)]  # fmt: skip
    fake_nvml.clock.set_us(0)
    fake_nvml.write([one, other])
    backend.open()
    assert backend.wait_events(0) == []  # registers: what was before is nobody's
    fake_nvml.clock.set_us(3_000_000)
    events = heard(backend)
    of_one = {(e.kind, e.code) for e in events if e.uuid == one.uuid}
    assert of_one == {("xid", 94), ("mig_changed", None)}
    [xid] = [event for event in events if event.code == 94]
    assert xid.slot is not None
    assert slot_text(xid.slot) == "0000:1b:00.0/3/0"
    assert {e.kind for e in events if e.uuid == other.uuid} == {
        "xid", "ecc_double", "poison", "gpu_unavailable", "page_retired", "ecc_storm",
        "recovery_action",
    }  # fmt: skip
    assert [e.code for e in events if e.kind == "ecc_double"] == [None]


def test_no_event_is_no_error(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    gpu = whole_h100()
    gpu.sets["events"] = ALL_TYPES
    fake_nvml.write([gpu])
    backend.open()
    assert heard(backend) == []


@pytest.mark.parametrize("code", [3, 4, 13])
def test_events_that_nobody_has_are_said(
    fake_nvml: FakeNvml, backend: NvmlBackend, code: int
) -> None:
    gpus = [whole_h100(0x1B), whole_h100(0x3B)]
    for gpu in gpus:
        gpu.fails = {"nvmlDeviceGetSupportedEventTypes": code}
    fake_nvml.write(gpus)
    backend.open()
    with pytest.raises(UnsupportedError, match=f"NVML {code}"):
        backend.wait_events(0.1)


@pytest.mark.parametrize(("code", "sets"), [(3, 1), (4, 1), (999, 2), (15, 1), (10, 1)])
def test_a_gpu_that_cannot_be_registered_costs_the_others_nothing(
    fake_nvml: FakeNvml, backend: NvmlBackend, nvml_library: Path, code: int, sets: int
) -> None:
    """An unknown fault spoils the set: it is freed, and another is made without that GPU."""
    bad, good = whole_h100(0x1B), whole_h100(0x3B)
    bad.sets["events"] = good.sets["events"] = ALL_TYPES
    bad.fails = {"nvmlDeviceRegisterEvents": code}
    bad.events = [FakeEvent(1, XID, 13)]
    good.events = [FakeEvent(1, XID, 31)]
    library = ctypes.CDLL(str(nvml_library))
    made, live = library.fakeCalls(b"nvmlEventSetCreate"), library.fakeLiveSets()
    fake_nvml.clock.set_us(0)
    fake_nvml.write([bad, good])
    backend.open()
    assert backend.wait_events(0) == []
    assert library.fakeCalls(b"nvmlEventSetCreate") - made == sets
    assert library.fakeLiveSets() - live == 1
    fake_nvml.clock.set_us(2_000_000)
    assert [event.code for event in heard(backend)] == [31]
    first, second = backend.devices()
    assert f"NVML {code}" in first.facts()[0].unsupported["events"]
    assert "events" not in second.facts()[0].unsupported
    backend.close()
    assert library.fakeLiveSets() == live


def test_while_all_gpus_are_lost_events_are_not_given_up(
    fake_nvml: FakeNvml, backend: NvmlBackend
) -> None:
    """Who hears that there are none stops asking: it must be so for good."""
    gpu = whole_h100()
    gpu.sets["events"] = ALL_TYPES
    gpu.events = [FakeEvent(5, XID, 79)]
    fake_nvml.clock.set_us(0)
    fake_nvml.write([replace(gpu, fails={"nvmlDeviceGetTemperature": 15})])
    backend.open()
    with pytest.raises(DeviceLostError):
        backend.devices()[0].read()
    assert backend.wait_events(0.05) == ()
    fake_nvml.write([gpu])
    backend.rescan()
    assert backend.wait_events(0) == []
    fake_nvml.clock.set_us(6_000_000)
    assert [event.code for event in heard(backend)] == [79]


def test_a_gpu_refused_for_now_is_registered_after_a_rescan(
    fake_nvml: FakeNvml, backend: NvmlBackend
) -> None:
    one, other = whole_h100(0x1B), whole_h100(0x3B)
    for gpu in (one, other):
        gpu.sets["events"] = ALL_TYPES
        gpu.events = [FakeEvent(5, XID, gpu.bus)]
    one.fails = {"nvmlDeviceRegisterEvents": 27}
    fake_nvml.clock.set_us(0)
    fake_nvml.write([one, other])
    backend.open()
    assert backend.wait_events(0) == []
    one.fails = {}
    fake_nvml.write([one, other])
    backend.rescan()
    assert backend.wait_events(0) == []
    fake_nvml.clock.set_us(6_000_000)
    assert {event.code for event in heard(backend)} == {0x1B, 0x3B}
    assert "events" not in backend.devices()[0].facts()[0].unsupported


@pytest.mark.parametrize("code", [15, 999, 21])
def test_a_wait_that_fails_is_begun_again(
    fake_nvml: FakeNvml, backend: NvmlBackend, code: int
) -> None:
    gpu = whole_h100()
    gpu.sets["events"] = ALL_TYPES
    gpu.events = [FakeEvent(5, XID, 48)]
    fake_nvml.clock.set_us(0)
    fake_nvml.write([gpu], system=[f"fail nvmlEventSetWait_v2 {code}"])
    backend.open()
    began = time.monotonic()
    assert backend.wait_events(0.3) == ()
    assert time.monotonic() - began >= 0.3  # not again at once
    fake_nvml.write([gpu])
    assert backend.wait_events(0) == []
    fake_nvml.clock.set_us(6_000_000)
    assert [event.code for event in heard(backend)] == [48]


def test_a_driver_that_goes_is_said(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    gpu = whole_h100()
    gpu.sets["events"] = ALL_TYPES
    fake_nvml.write([gpu])
    backend.open()
    backend.wait_events(0)
    fake_nvml.write([gpu], init=9)
    with pytest.raises(DriverGoneError):
        backend.wait_events(0.1)


def test_closed_and_opened_again_while_somebody_waits(
    fake_nvml: FakeNvml, backend: NvmlBackend, nvml_library: Path
) -> None:
    """The library is never closed beneath the wait, and the wait goes on after it."""
    library = ctypes.CDLL(str(nvml_library))
    opened, live = library.fakeOpen(), library.fakeLiveSets()
    gpus = eight_gpus()
    for gpu in gpus:
        gpu.sets["events"] = ALL_TYPES
    fake_nvml.clock.set_us(0)
    fake_nvml.write(gpus)
    backend.open()
    events: list[DeviceEvent] = []
    errors: list[Exception] = []
    stop = threading.Event()

    def listen() -> None:
        while not stop.is_set():
            try:
                events.extend(backend.wait_events(0.3))
            except Exception as error:
                errors.append(error)
                return

    thread = threading.Thread(target=listen)
    thread.start()
    try:
        wait_until(lambda: library.fakeLiveSets() > live)
        for _ in range(3):
            backend.close()
            assert library.fakeLiveSets() == live
            assert library.fakeOpen() == opened
            backend.open()
            wait_until(lambda: library.fakeLiveSets() > live)
        gpus[5].events = [FakeEvent(1, XID, 63)]
        fake_nvml.clock.set_us(2_000_000)
        fake_nvml.write(gpus)
        wait_until(lambda: bool(events) or bool(errors))
    finally:
        stop.set()
        thread.join(5)
    assert errors == []
    assert [(event.uuid, event.code) for event in events] == [(gpus[5].uuid, 63)]


def wait_until(condition: Callable[[], bool]) -> None:
    """Polls what no call waits for."""
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until, "not within a minute"
        time.sleep(0.01)


def test_mig_change_is_followed_at_the_next_reading(
    fake_nvml: FakeNvml, backend: NvmlBackend
) -> None:
    gpu = whole_h100()
    gpu.sets["events"] = ALL_TYPES
    gpu.events = [FakeEvent(1, MIG_CHANGED)]
    gpu.timeline = [(1, "set mig 1")]
    fake_nvml.clock.set_us(0)
    fake_nvml.write([gpu])
    backend.open()
    [device] = backend.devices()
    assert "gpu_utilization" in device.read()[0].values
    backend.wait_events(0)
    fake_nvml.clock.set_us(2_000_000)
    assert "nvlink_errors" not in device.facts()[0].unsupported
    assert [event.kind for event in heard(backend)] == ["mig_changed"]
    assert "gpu_utilization" not in device.read()[0].values
    assert "MIG" in device.facts()[0].unsupported["nvlink_errors"]
