"""What every backend must do, on the NVML one and on the simulator's."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
from fake_nvml import FakeNvml, eight_gpus
from manual_clock import ManualClock

from collectors.contract.catalogue import CATALOGUE, COUNTER_LIMIT, Kind, Own
from collectors.contract.identity import parse_slot, slot_text
from collectors.contract.record import Origin
from collectors.contract.source import Backend
from collectors.kit import plugins


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["nvml", "sim"])
def backend(request: pytest.FixtureRequest, clock: ManualClock) -> Iterator[Backend]:
    """An open backend, found as the command finds it."""
    if request.param == "nvml":
        fake: FakeNvml = request.getfixturevalue("fake_nvml")
        fake.write(eight_gpus())
    opened: Backend = plugins.load("petawatch.backends", request.param)(clock, interval_s=1.0)
    opened.open()
    yield opened
    opened.close()


def test_says_where_its_figures_come_from(backend: Backend, request: pytest.FixtureRequest) -> None:
    expected = Origin.MEASURED if "nvml" in request.node.name else Origin.SIMULATED
    assert backend.origin is expected


def test_devices_are_in_order_of_slot_and_say_who_they_are(backend: Backend) -> None:
    devices = backend.devices()
    slots = [device.slot for device in devices]
    assert len(slots) == 8
    assert slots == sorted(set(slots))
    assert [parse_slot(slot_text(slot)) for slot in slots] == slots
    for device in devices:
        assert device.labels.slot == device.slot
        assert device.labels.uuid
        assert device.labels.model
        assert 0 <= device.energy_epoch < 2**64
    assert len({device.labels.uuid for device in devices}) == 8
    assert len({device.energy_epoch for device in devices}) == 8


def test_values_are_the_catalogues(backend: Backend, clock: ManualClock) -> None:
    """Known names, in range, gauges and counters of their kind, without the agent's own."""
    for _ in range(3):
        for device in backend.devices():
            for name, value in device.read()[0].values.items():
                metric = CATALOGUE.by_name[name]
                assert not isinstance(metric.read, Own)
                assert math.isfinite(value)
                low, high = metric.valid
                assert low <= value <= high, name
                if metric.kind is Kind.COUNTER:
                    assert isinstance(value, int), name
                    assert value < COUNTER_LIMIT
        clock.move(1)


def test_what_an_agent_needs_is_there(backend: Backend, clock: ManualClock) -> None:
    for device in backend.devices():
        device.read()
    clock.move(1)
    for device in backend.devices():
        assert {"power_w", "energy_mj", "gpu_temperature_c", "sm_clock_mhz"} <= device.read()[
            0
        ].values.keys()


def test_counters_do_not_fall(backend: Backend, clock: ManualClock) -> None:
    before: dict[tuple[int, str], float] = {}
    for _ in range(5):
        for device in backend.devices():
            for name, value in device.read()[0].values.items():
                if CATALOGUE.by_name[name].kind is Kind.COUNTER:
                    assert value >= before.get((device.slot, name), 0)
                    before[device.slot, name] = value
        clock.move(1)


def test_rescan_changes_nothing_where_nothing_has_changed(backend: Backend) -> None:
    before = [(device.slot, device.labels, device.energy_epoch) for device in backend.devices()]
    backend.rescan()
    assert [(d.slot, d.labels, d.energy_epoch) for d in backend.devices()] == before


def test_opens_again_after_it_was_closed(backend: Backend) -> None:
    uuids = [device.labels.uuid for device in backend.devices()]
    backend.close()
    backend.open()
    assert [device.labels.uuid for device in backend.devices()] == uuids
    assert backend.devices()[0].read()[0].values
