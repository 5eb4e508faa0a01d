"""The reader: records of a pipe in the device's stead, growing files, and what may not be read."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from agent.manual_clock import ManualClock

from collectors.contract.source import DeviceEvent, UnsupportedError
from collectors.kernel_log.reader import KMSG, KernelLog

XID = "NVRM: Xid (PCI:0000:38:00): {code}, pid=1, name=x, Ch 1\n"


class Device:
    """A pipe that gives records as `/dev/kmsg` does."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "kmsg"
        os.mkfifo(self.path)
        self._keep = os.open(self.path, os.O_RDWR | os.O_NONBLOCK)
        self.boot_id = folder / "boot_id"
        self.boot_id.write_text("first boot\n")
        self.state = folder / "state.json"

    def write(self, *codes: int, sequence: int = 0, boot_us: int = 1_000_000) -> None:
        for step, code in enumerate(codes):
            record = f"4,{sequence + step},{boot_us},-;" + XID.format(code=code)
            os.write(self._keep, (record + " SUBSYSTEM=pci\n").encode())

    def log(self, clock: ManualClock | None = None, *, remembers: bool = True) -> KernelLog:
        return KernelLog(
            self.path,
            state=self.state if remembers else None,
            clock=clock or ManualClock(),
            boot_id=self.boot_id,
        )

    def close(self) -> None:
        os.close(self._keep)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    made = Device(tmp_path)
    yield made
    made.close()


def codes(events: Sequence[DeviceEvent]) -> list[int | None]:
    return [event.code for event in events]


def test_records_are_told_as_they_come(device: Device) -> None:
    log = device.log()
    device.write(13, 43)
    assert codes(log.wait(0)) == [13, 43]
    assert log.wait(0) == []
    device.write(79, sequence=2)
    assert codes(log.wait(5)) == [79]
    log.close()


def test_waiting_ends_with_a_record_and_not_before_its_time(device: Device) -> None:
    log = device.log()
    began_s = time.monotonic()
    assert log.wait(0.2) == []
    assert time.monotonic() - began_s >= 0.19
    log.close()


def test_what_came_before_the_start_keeps_its_time_and_later_ones_are_now(device: Device) -> None:
    clock = ManualClock()
    clock.monotonic = 100_000_000
    log = device.log(clock)
    device.write(13, boot_us=40_000_000)
    [event] = log.wait(0)
    assert event.time_us == clock.wall - 60_000_000
    log.wait(0)
    device.write(13, sequence=1, boot_us=99_000_000)
    [event] = log.wait(0)
    assert event.time_us is None
    log.close()


def test_another_life_goes_on_where_the_first_was(device: Device) -> None:
    log = device.log()
    device.write(13, 31)
    assert codes(log.wait(0)) == [13, 31]
    log.close()
    device.write(13, 31, 45, sequence=0)  # the device gives all that it keeps
    log = device.log()
    assert codes(log.wait(0)) == [45]
    log.close()


def test_a_life_that_ended_hard_may_tell_twice_but_misses_nothing(device: Device) -> None:
    log = device.log()
    device.write(13)
    assert codes(log.wait(0)) == [13]  # and then it dies, before it has taken it
    device.write(13, 31)
    again = device.log()
    assert codes(again.wait(0)) == [13, 31]
    again.wait(0)
    device.write(13, 31, 45)
    third = device.log()
    assert codes(third.wait(0)) == [45]
    for one in (log, again, third):
        one.close()


def test_another_boot_is_another_log(device: Device) -> None:
    log = device.log()
    device.write(13, sequence=900)
    log.wait(0)
    log.close()
    device.boot_id.write_text("second boot\n")
    device.write(31, sequence=5)
    log = device.log()
    assert codes(log.wait(0)) == [31]
    log.close()


def test_a_broken_state_is_none(device: Device) -> None:
    device.state.write_text("{")
    log = device.log()
    device.write(31)
    assert codes(log.wait(0)) == [31]
    log.close()


def test_overwritten_records_are_counted(device: Device) -> None:
    log = device.log(remembers=False)
    device.write(13, sequence=10)
    device.write(13, sequence=15)
    assert len(log.wait(0)) == 2
    assert log.lost == 4
    log.close()


def test_a_flood_comes_in_pieces_and_whole(device: Device) -> None:
    log = device.log()
    count = 0
    for sequence in range(0, 3_000, 100):
        device.write(*[13] * 100, sequence=sequence)
        count += len(log.wait(0))
    while events := log.wait(0):
        count += len(events)
    assert count == 3_000
    assert log.lost == 0
    log.close()


def test_a_pipe_without_a_writer_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    log = KernelLog(path)
    began_s = time.monotonic()
    assert log.wait(0) == []
    assert log.wait(0.2) == []
    assert time.monotonic() - began_s >= 0.15
    log.close()


def append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def test_a_growing_file_is_followed_through_rotation_and_cutting(tmp_path: Path) -> None:
    path = tmp_path / "kern.log"
    path.write_text(XID.format(code=1))
    log = KernelLog(path)
    assert log.wait(0) == []  # what stood there is of another time
    append(path, XID.format(code=13) + "NVRM: Xid (PCI:0000:38")
    assert codes(log.wait(0)) == [13]
    append(path, ":00): 31, pid=2\n" + XID.format(code=43))
    assert codes(log.wait(0)) == [31, 43]
    append(path, XID.format(code=45))
    path.rename(tmp_path / "kern.log.1")
    path.write_text(XID.format(code=48))
    assert codes(log.wait(0)) == [45, 48]
    path.write_text("")
    assert log.wait(0) == []
    append(path, XID.format(code=63))
    assert codes(log.wait(1)) == [63]
    path.unlink()
    assert log.wait(0) == []
    path.write_text(XID.format(code=64))
    assert codes(log.wait(0)) == [64]
    log.close()


def test_times_in_a_file_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "kern.log"
    path.write_text("")
    log = KernelLog(path)
    log.wait(0)
    append(path, "2026-11-24T06:00:00.250000+00:00 n7 kernel: " + XID.format(code=13))
    [event] = log.wait(0)
    assert event.time_us == 1_795_500_000_250_000
    log.close()


def test_what_may_not_be_read_says_what_to_grant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(1, "Operation not permitted")

    with pytest.raises(UnsupportedError, match="mount the host's"):
        KernelLog(tmp_path / "nothing").wait(0)
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UnsupportedError, match="CAP_SYSLOG"):
        KernelLog(tmp_path / "kmsg").wait(0)


@pytest.mark.skipif(not os.access(KMSG, os.R_OK), reason="the kernel log may not be read here")
def test_the_real_log_can_be_followed(tmp_path: Path) -> None:
    try:
        log = KernelLog(state=tmp_path / "state.json")
        events = log.wait(0)
    except UnsupportedError:
        pytest.skip("the kernel log may not be read here")
    assert all(event.kind for event in events)
    log.close()
