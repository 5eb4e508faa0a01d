"""What every backend must do, on the NVML one and on the simulator's."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator

import pytest
from fake_nvml import FakeNvml, eight_gpus
from manual_clock import ManualClock

from collectors.contract.catalogue import CATALOGUE, COUNTER_LIMIT, Kind, Own
from collectors.contract.flop import FLOP_METHOD_NAMES
from collectors.contract.identity import parse_slot, slot_text
from collectors.contract.record import Origin
from collectors.contract.source import (
    Backend,
    DeviceLostError,
    DriverGoneError,
    TransientError,
    UnsupportedError,
)
from collectors.kit import plugins
from collectors.kit.clock import SystemClock

CLOCK = SystemClock()


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


def test_samples_are_of_the_gpu_then_of_its_instances(backend: Backend) -> None:
    for device in backend.devices():
        whole, *instances = device.read()
        assert whole.labels == device.labels
        assert whole.energy_epoch == device.energy_epoch
        assert whole.parent is None
        slots = [sample.labels.slot for sample in instances]
        assert slots == sorted(slots)
        assert all(sample.parent == device.slot for sample in instances)


def test_processes_are_of_the_devices_own_slots_or_never(backend: Backend) -> None:
    for device in backend.devices():
        slots = {sample.labels.slot for sample in device.read()}
        try:
            found = device.processes()
        except UnsupportedError:
            continue
        for process in found:
            assert process.slot in slots
            assert process.pid > 0
            assert process.memory_bytes is None or process.memory_bytes >= 0
            assert process.sm_utilization is None or 0 <= process.sm_utilization <= 1


def test_facts_agree_with_what_is_read(backend: Backend) -> None:
    for device in backend.devices():
        given = set(device.read()[0].values)
        whole, *instances = device.facts()
        assert parse_slot(whole.slot) == device.slot
        labels = device.labels
        assert (whole.uuid, whole.model, whole.serial) == (labels.uuid, labels.model, labels.serial)
        assert whole.state == "ok"
        assert whole.parent == ""
        assert all(parse_slot(one.parent) == device.slot for one in instances)
        assert not given & set(whole.unsupported), "what is given is not unsupported"
        assert all(whole.unsupported.values()), "each with its reason"
        assert whole.flop_method in FLOP_METHOD_NAMES.values()
        assert all(math.isfinite(limit) for limit in whole.limits.values())


def test_numbers_of_schedulers_are_unique(backend: Backend) -> None:
    numbers = [device.facts()[0].number for device in backend.devices()]
    known = [number for number in numbers if number is not None]
    assert len(set(known)) == len(known)


def test_what_the_node_lacks_has_a_reason(backend: Backend) -> None:
    assert all(backend.missing().values())
    assert isinstance(backend.driver, str)


def test_waiting_for_events_ends_in_time_or_is_refused_for_good(backend: Backend) -> None:
    began_us = CLOCK.monotonic_us()
    for _ in range(2):
        try:
            assert list(backend.wait_events(0.05)) == []
        except UnsupportedError:
            continue
    assert CLOCK.monotonic_us() - began_us < 5_000_000


def test_devices_are_read_in_several_threads_beside_a_rescan(backend: Backend) -> None:
    failures: list[BaseException] = []

    def run(work: Callable[[], object]) -> None:
        try:
            for _ in range(20):
                work()
        except BaseException as error:
            failures.append(error)

    works: list[Callable[[], object]] = [device.read for device in backend.devices()]
    works.append(backend.rescan)
    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert failures == []
    assert all(device.read()[0].values for device in backend.devices())


def test_a_device_that_is_still_held_gives_no_value_once_the_driver_was_let_go(
    backend: Backend,
) -> None:
    device = backend.devices()[0]
    backend.close()
    assert list(backend.devices()) == []
    with pytest.raises((DriverGoneError, DeviceLostError, TransientError)):
        device.read()
    backend.close()
