"""Devices that go, come back, change or hang while others are read."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from fake_nvml import FakeNvml, eight_gpus, whole_h100
from manual_clock import ManualClock

from collectors.contract.source import (
    BackendUnavailableError,
    DeviceLostError,
    DriverGoneError,
    TransientError,
)
from collectors.nvml.backend import NvmlBackend
from collectors.nvml.gate import Gate


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def backend(clock: ManualClock) -> Iterator[NvmlBackend]:
    backend = NvmlBackend(clock)
    yield backend
    backend.close()


@pytest.mark.parametrize(
    ("code", "state"),
    [(15, "lost"), (16, "needs_reset"), (14, "lost"), (11, "lost"), (8, "lost"), (29, "lost")],
)
def test_state_is_in_the_facts_until_it_is_back(
    fake_nvml: FakeNvml, backend: NvmlBackend, code: int, state: str
) -> None:
    gpu = whole_h100()
    fake_nvml.write([gpu])
    backend.open()
    [device] = backend.devices()
    device.read()
    fake_nvml.write([replace(gpu, fails={"nvmlDeviceGetTemperature": code})])
    with pytest.raises(DeviceLostError, match=f"NVML {code}"):
        device.read()
    facts = device.facts()[0]
    assert (facts.state, facts.uuid) == (state, gpu.uuid)
    fake_nvml.write([gpu])
    backend.rescan()
    [device] = backend.devices()
    assert device.facts()[0].state == "ok"
    assert device.read()[0].values["gpu_temperature_c"] == 61


def test_a_lost_gpu_keeps_its_energy_epoch_unless_it_was_reset(
    fake_nvml: FakeNvml, backend: NvmlBackend, clock: ManualClock
) -> None:
    gpu = whole_h100()
    gpu.sets["integrate"] = 0
    fake_nvml.write([gpu])
    backend.open()
    first = backend.devices()[0].read()[0].energy_epoch

    def lose_and_find(energy_mj: int) -> int:
        fake_nvml.write([replace(gpu, fails={"all": 15})])
        with pytest.raises(DeviceLostError):
            backend.devices()[0].read()
        gpu.fields[83] = 3, energy_mj
        fake_nvml.write([gpu])
        clock.move(60)
        backend.rescan()
        return backend.devices()[0].read()[0].energy_epoch

    assert lose_and_find(6_000_000) == first
    assert lose_and_find(1_000) != first


def test_a_lost_gpu_that_only_a_fresh_library_sees_is_found(
    fake_nvml: FakeNvml, backend: NvmlBackend, nvml_library: Path
) -> None:
    library = ctypes.CDLL(str(nvml_library))
    gpus = eight_gpus()
    fake_nvml.write(gpus)
    backend.open()
    opened = library.fakeOpen()
    gpus[2].fails = {"all": 15}
    fake_nvml.write(gpus)
    with pytest.raises(DeviceLostError):
        backend.devices()[2].read()
    kept = backend.devices()[0]
    for _ in range(9):
        backend.rescan()
    assert backend.devices()[0] is kept
    gpus[2].fails = {}
    fake_nvml.write(gpus)
    backend.rescan()  # the tenth with a lost GPU: the library starts again
    assert backend.devices()[0] is not kept
    assert [device.read()[0].values["power_w"] for device in backend.devices()] == [390.78] * 8
    assert library.fakeOpen() == opened


def test_a_gpu_that_a_fresh_library_does_not_see_is_lost_until_it_does(
    fake_nvml: FakeNvml, backend: NvmlBackend
) -> None:
    gpus = eight_gpus()
    fake_nvml.write(gpus)
    backend.open()
    gpus[2].fails = {"all": 15}
    fake_nvml.write(gpus)
    with pytest.raises(DeviceLostError):
        backend.devices()[2].read()
    gpus[5].fails = {"nvmlDeviceGetHandleByIndex_v2": 10}
    fake_nvml.write(gpus)
    for _ in range(10):
        backend.rescan()
    with pytest.raises(DeviceLostError):
        backend.devices()[5].read()
    gpus[5].fails = {}
    fake_nvml.write(gpus)
    backend.rescan()
    assert backend.devices()[5].read()[0].values["power_w"] == 390.78


def test_a_new_index_is_no_new_gpu(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    gpus = eight_gpus()
    fake_nvml.write(gpus)
    backend.open()
    before = list(backend.devices())
    backend.rescan()
    assert list(backend.devices()) == before
    gpus[0].fails = {"all": 15}
    fake_nvml.write(gpus)
    with pytest.raises(DeviceLostError):
        before[0].read()
    fake_nvml.write([*gpus[1:], replace(gpus[0], fails={})])  # it is the last of them now
    backend.rescan()
    after = backend.devices()
    assert [device.slot for device in after] == [device.slot for device in before]
    assert [device.labels.uuid for device in after] == [gpu.uuid for gpu in gpus]


def test_one_uuid_in_two_slots_is_two_gpus(fake_nvml: FakeNvml, backend: NvmlBackend) -> None:
    one, other = whole_h100(0x1B), whole_h100(0x3B)
    other.uuid, other.sets["temperature"] = one.uuid, 44
    fake_nvml.write([one, other])
    backend.open()
    first, second = backend.devices()
    assert first.slot != second.slot
    assert first.read()[0].values["gpu_temperature_c"] == 61
    assert second.read()[0].values["gpu_temperature_c"] == 44


def test_a_gpu_that_does_not_say_who_it_is_now_stays_who_it_was(
    fake_nvml: FakeNvml, backend: NvmlBackend
) -> None:
    gpus = eight_gpus()
    fake_nvml.write(gpus)
    backend.open()
    before = list(backend.devices())
    gpus[1].fails = {"nvmlDeviceGetUUID": 999}
    gpus[2].fails = {"nvmlDeviceGetSerial": 10}
    gpus[3].fails = {"nvmlDeviceGetHandleByIndex_v2": 17}
    fake_nvml.write(gpus)
    backend.rescan()
    assert list(backend.devices()) == before
    assert set(backend.missing()) == {"gpu_index_1", "gpu_index_2", "gpu_index_3"}


def test_a_device_that_was_replaced_asks_for_patience(
    fake_nvml: FakeNvml, backend: NvmlBackend
) -> None:
    gpu = whole_h100()
    fake_nvml.write([gpu])
    backend.open()
    [old] = backend.devices()
    old.read()
    fake_nvml.write([replace(gpu, uuid="GPU-other")])
    backend.rescan()
    with pytest.raises(TransientError, match="anew"):
        old.read()
    assert backend.devices()[0].read()[0].labels.uuid == "GPU-other"


def in_thread(call: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


def hanging(fake: FakeNvml, library: ctypes.CDLL, backend: NvmlBackend) -> threading.Thread:
    """GPU 3 hangs in a call; returns the thread that is in it."""
    gpus = eight_gpus()
    fake.write(gpus)
    backend.open()
    for device in backend.devices():
        device.read()
    gpus[3].hang_s = {"nvmlDeviceGetTemperature": 60}
    fake.write(gpus)

    device = backend.devices()[3]
    asked = library.fakeCalls(b"nvmlDeviceGetTemperature")

    def read() -> None:
        with suppress(TransientError):  # the library may have been closed meanwhile
            device.read()

    thread = in_thread(read)
    until = time.monotonic() + 30
    while library.fakeCalls(b"nvmlDeviceGetTemperature") == asked:
        assert time.monotonic() < until, "it does not hang"
        time.sleep(0.001)
    return thread


def test_a_hanging_gpu_holds_up_neither_readings_nor_rescans_nor_the_end(
    fake_nvml: FakeNvml, backend: NvmlBackend, nvml_library: Path,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr("collectors.nvml.backend._QUIET_S", 0.2)
    library = ctypes.CDLL(str(nvml_library))
    opened, samples = library.fakeOpen(), library.fakeLiveSamples()
    thread = hanging(fake_nvml, library, backend)
    began = time.monotonic()
    others = [device for index, device in enumerate(backend.devices()) if index != 3]
    assert [device.read()[0].values["power_w"] for device in others] == [390.78] * 7
    backend.rescan()
    backend.close()
    assert time.monotonic() - began < 30
    assert thread.is_alive()
    assert "library_not_closed" in caplog.text
    assert library.fakeOpen() == opened + 1  # never closed beneath a call
    fake_nvml.write(eight_gpus())  # the driver answers in the end
    thread.join(10)
    assert not thread.is_alive()
    backend.open()
    assert len(backend.devices()) == 8
    backend.close()
    assert (library.fakeOpen(), library.fakeLiveSamples()) == (opened, samples)


def test_a_device_released_while_it_is_read_frees_its_samples_afterwards(
    fake_nvml: FakeNvml, backend: NvmlBackend, nvml_library: Path
) -> None:
    library = ctypes.CDLL(str(nvml_library))
    before = library.fakeLiveSamples()
    thread = hanging(fake_nvml, library, backend)
    device = backend.devices()[3]
    device.release()
    assert library.fakeLiveSamples() == before + 16
    fake_nvml.write(eight_gpus())
    thread.join(10)
    assert library.fakeLiveSamples() == before + 14


def test_readings_beside_rescans_and_fresh_starts(
    fake_nvml: FakeNvml, backend: NvmlBackend, nvml_library: Path
) -> None:
    """No reading is lost but for those that come while the library starts again, and those of a
    device that has just been replaced; nothing leaks."""
    library = ctypes.CDLL(str(nvml_library))
    samples = library.fakeLiveSamples()
    gpus = eight_gpus()
    fake_nvml.write(gpus)
    backend.open()
    gpus[7].fails = {"all": 15}
    fake_nvml.write(gpus)
    stop = threading.Event()
    wrong: list[Exception] = []
    good = [0] * 7

    def read(index: int) -> None:
        while not stop.is_set():
            try:
                good[index] += bool(backend.devices()[index].read())
            except TransientError as error:
                if "again" not in str(error) and "anew" not in str(error):
                    wrong.append(error)
            except Exception as error:
                wrong.append(error)

    threads = [in_thread(lambda index=index: read(index)) for index in range(7)]
    with pytest.raises(DeviceLostError):
        backend.devices()[7].read()
    for _ in range(40):  # every tenth starts the library again
        backend.rescan()
    stop.set()
    for thread in threads:
        thread.join(5)
    assert wrong == []
    assert min(good) > 0
    backend.close()
    assert library.fakeLiveSamples() == samples


def test_opening_that_fails_leaves_nothing_open(
    fake_nvml: FakeNvml, backend: NvmlBackend, nvml_library: Path
) -> None:
    library = ctypes.CDLL(str(nvml_library))
    opened = library.fakeOpen()
    for code in (9, 12, 1, 17):
        fake_nvml.write([whole_h100()], init=code)
        with pytest.raises(BackendUnavailableError, match=f"NVML {code}"):
            backend.open()
    fake_nvml.write([whole_h100()], system=["fail nvmlDeviceGetCount_v2 999"])
    with pytest.raises(BackendUnavailableError):
        backend.open()
    assert library.fakeOpen() == opened
    assert backend.wait_events(0.01) == ()
    with pytest.raises(DriverGoneError):
        backend.rescan()


def test_a_shut_gate_turns_away_and_lets_go() -> None:
    gate = Gate()
    with gate:
        assert not gate.shut(0.01)
        with pytest.raises(TransientError), gate:
            pass
    assert gate.shut(0.01)
    assert not gate.wait_open(0.01)
    gate.reopen()
    assert gate.wait_open(0)
    with gate:
        pass
