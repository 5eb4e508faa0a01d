"""One simulated node as an agent sees it."""

from __future__ import annotations

import pytest

from collectors.contract.catalogue import CATALOGUE, Kind, Own
from collectors.contract.record import Origin
from collectors.contract.source import Backend, DriverGoneError
from collectors.simulator.backend import SimulatorBackend


class _SteppedClock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now_us = 0

    def wall_us(self) -> int:
        return 1_800_000_000_000_000 + self.now_us

    def monotonic_us(self) -> int:
        return self.now_us

    async def sleep(self, seconds: float) -> None:
        self.now_us += round(seconds * 1e6)


def test_eight_devices_with_identity_and_readings():
    backend: Backend = SimulatorBackend(_SteppedClock())
    backend.open()
    devices = backend.devices()
    assert backend.origin is Origin.SIMULATED
    assert len({device.slot for device in devices}) == 8
    assert len({device.labels.uuid for device in devices}) == 8
    assert len({device.energy_epoch for device in devices}) == 8
    for device in devices:
        values = device.read()[0].values
        assert {"power_w", "energy_mj", "gpu_utilization", "tensor_activity"} <= set(values)
        for name, value in values.items():
            metric = CATALOGUE.by_name[name]
            assert not isinstance(metric.read, Own)
            assert isinstance(value, int if metric.kind is Kind.COUNTER else float)
            assert metric.valid[0] <= value <= metric.valid[1]
    backend.close()


def test_energy_is_power_over_the_time_between_readings():
    clock = _SteppedClock()
    backend = SimulatorBackend(clock)
    backend.open()
    before = [device.read()[0].values for device in backend.devices()]
    clock.now_us += 2_000_000
    after = [device.read()[0].values for device in backend.devices()]
    for one, other in zip(before, after, strict=True):
        assert other["energy_mj"] - one["energy_mj"] == pytest.approx(
            other["power_w"] * 2000, abs=1.1
        )


def test_all_devices_of_a_round_are_read_at_one_moment():
    clock = _SteppedClock()
    backend = SimulatorBackend(clock)
    backend.open()
    first, second = backend.devices()[:2]
    first.read()
    clock.now_us += 1_000_000
    after = first.read()[0].values
    assert second.read()[0].values["energy_mj"] != 0
    clock.now_us += 500_000
    assert first.read()[0].values["energy_mj"] > after["energy_mj"]


def test_a_closed_backend_says_so_and_opens_again_with_new_counters():
    clock = _SteppedClock()
    backend = SimulatorBackend(clock)
    backend.open()
    old = backend.devices()[0]
    epoch, labels = old.energy_epoch, old.labels
    backend.close()
    with pytest.raises(DriverGoneError):
        old.read()
    assert backend.devices() == []
    clock.now_us += 1_000_000
    backend.open()
    new = backend.devices()[0]
    assert new.energy_epoch != epoch
    assert new.labels.uuid == labels.uuid
