"""Answers that were as usual, and one of them then is not: the others stay what they are."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fake_nvml import DOUBLE, SINT, UINT, ULONGLONG, FakeNvml, whole_h100
from manual_clock import ManualClock

from collectors.nvml.backend import NvmlBackend

_POWER, _ENERGY, _MEMORY_TEMPERATURE, _THROTTLED, _SENT = 186, 83, 82, 74, 138
_NAMES = {
    _POWER: "power_w", _ENERGY: "energy_mj", _MEMORY_TEMPERATURE: "memory_temperature_c",
    _THROTTLED: "throttle_power_cap_us", _SENT: "nvlink_tx_bytes",
}  # fmt: skip


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def backend(clock: ManualClock) -> Iterator[NvmlBackend]:
    backend = NvmlBackend(clock)
    yield backend
    backend.close()


def _read(
    backend: NvmlBackend, fake: FakeNvml, clock: ManualClock, *changes: str
) -> list[dict[str, float]]:
    """Readings at seconds 1 to 7; in second 4 the driver says other things than before."""
    gpu = whole_h100()
    gpu.sets.pop("integrate")
    usual = [f"field {field} {kind} {value!r}" for field, (kind, value) in gpu.fields.items()]
    usual += [f"field_error {field} 0" for field in gpu.fields]
    gpu.timeline += [(4, line) for line in changes] + [(5, line) for line in usual]
    fake.clock.set_us(0)
    fake.write([gpu])
    backend.open()
    [device] = backend.devices()
    readings: list[dict[str, float]] = []
    for _ in range(7):
        clock.move(1)
        fake.clock.move(1)
        readings.append({
            name: value for name, value in device.read()[0].values.items()
            if name in _NAMES.values()
        })  # fmt: skip
    return readings


@pytest.mark.parametrize(
    ("field", "answer", "value"),
    [
        (_POWER, (UINT, 2**32 - 1), None),
        (_POWER, (UINT, 3_000_001), None),
        (_POWER, (ULONGLONG, 400_000), 400.0),
        (_POWER, (DOUBLE, 400_000.0), 400.0),
        (_MEMORY_TEMPERATURE, (SINT, -5), -5.0),
        (_ENERGY, (ULONGLONG, 9_220_000_000_000_000_001), None),
        (_ENERGY, (ULONGLONG, 2**64 - 1), None),
        (_ENERGY, (ULONGLONG, 2**53), None),
        (_THROTTLED, (ULONGLONG, 2**32 - 1), None),
        (_THROTTLED, (ULONGLONG, 2**32), 2**32 // 1000),
        (_SENT, (ULONGLONG, 2**64 - 1), None),
    ],
)
def test_an_answer_that_changes_its_form_is_read_as_what_it_is(
    backend: NvmlBackend, fake_nvml: FakeNvml, clock: ManualClock, field: int,
    answer: tuple[int, float], value: float | None,
) -> None:  # fmt: skip
    kind, raw = answer
    readings = _read(backend, fake_nvml, clock, f"field {field} {kind} {raw!r}")
    usual, odd = readings[2], readings[3]
    assert odd.pop(_NAMES[field], None) == value
    assert odd == {name: usual[name] for name in usual if name != _NAMES[field]}
    assert readings[4:] == [usual] * 3
    assert usual.keys() == set(_NAMES.values())


def test_a_field_that_fails_once_is_there_again(
    backend: NvmlBackend, fake_nvml: FakeNvml, clock: ManualClock
) -> None:
    readings = _read(backend, fake_nvml, clock, f"field_error {_POWER} 21")
    assert ["power_w" in one for one in readings] == [True] * 3 + [False] + [True] * 3


def test_a_field_that_is_taken_away_is_read_by_its_call(
    backend: NvmlBackend, fake_nvml: FakeNvml, clock: ManualClock
) -> None:
    *_, last = _read(backend, fake_nvml, clock, f"field_error {_POWER} 3")
    assert last["power_w"] == 390.78
    assert last["energy_mj"] == 5_000_000
