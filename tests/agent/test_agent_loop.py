"""The loop: runs, label epochs, states and what becomes of a sick device or driver."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
from manual_clock import ManualClock
from scripted_node import ScriptedBackend, ScriptedDevice

from collectors.agent.agent import Agent, AgentSettings
from collectors.contract.catalogue import COUNTER_ABSENT
from collectors.contract.record import NodeRecord
from collectors.contract.source import DeviceLostError, DriverGoneError, TransientError
from collectors.contract.topics import Event
from collectors.contract.wire import encode, parse
from collectors.kit.clock import SystemClock

BUSY = {"gpu_utilization": 1.0, "power_w": 500.0, "energy_mj": 1_000_000}
SECOND_US = 1_000_000


async def until(reached: Callable[[], bool]) -> None:
    """Waits for what a thread does."""
    async with asyncio.timeout(10):
        while not reached():  # noqa: ASYNC110 -- a thread's doing has no event of ours
            await asyncio.sleep(0.001)


class Node:
    """An agent on two scripted devices, ticked by hand."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.first, self.second = ScriptedDevice(1, BUSY), ScriptedDevice(2, BUSY)
        self.backend = ScriptedBackend([self.first, self.second])
        self.records: list[NodeRecord] = []
        self.events: list[Event] = []
        # A loaded machine must not make a tick late that the test does not mean to be.
        settings = AgentSettings("n1", budget=60)
        self.agent = Agent(
            self.backend, self.clock, settings, self.records.append, self.events.append
        )

    async def tick(self, seconds: float = 1.0) -> NodeRecord:
        """Time goes on, then one tick; the record as a reader of the wire gets it."""
        self.clock.move(seconds)
        count = len(self.records)
        await self.agent.tick()
        await asyncio.sleep(0)  # what was begun beside the tick goes on
        assert len(self.records) == count + 1
        return parse(encode(self.records[-1]))


async def test_first_record_carries_zero_integrals() -> None:
    node = Node()
    record = await node.tick()
    assert record.sequence == 0
    assert list(record.values["observed_us"]) == [0, 0]
    assert list(record.values["active_us"]) == [0, 0]
    assert [label.uuid for label in record.labels] == ["GPU-1", "GPU-2"]
    assert list(record.energy_epochs) == [1001, 1002]


async def test_time_is_observed_and_active() -> None:
    node = Node()
    await node.tick()
    node.second.values = {**BUSY, "gpu_utilization": 0.01}
    record = await node.tick()
    assert list(record.values["observed_us"]) == [SECOND_US, SECOND_US]
    assert list(record.values["active_us"]) == [SECOND_US, 0]
    assert record.labels == []


async def test_lost_device_is_down_and_the_other_goes_on() -> None:
    node = Node()
    await node.tick()
    node.second.error = DeviceLostError("off the bus")
    record = await node.tick()
    assert list(record.values["down_us"]) == [0, SECOND_US]
    assert list(record.values["observed_us"]) == [SECOND_US, 0]
    assert record.values["energy_mj"][1] == COUNTER_ABSENT
    assert [(event.kind, event.uuid) for event in node.events] == [("gpu_lost", "GPU-2")]
    await node.tick()
    node.second.error = None
    record = await node.tick()
    assert list(record.values["down_us"]) == [0, 2 * SECOND_US]
    assert [event.kind for event in node.events] == ["gpu_lost", "gpu_recovered"]


async def test_a_silent_tick_is_down_without_an_event() -> None:
    node = Node()
    await node.tick()
    node.first.error = TransientError("no data")
    record = await node.tick()
    assert list(record.values["down_us"]) == [SECOND_US, 0]
    assert node.events == []


async def test_gap_stays_unobserved() -> None:
    node = Node()
    await node.tick()
    record = await node.tick(60)
    assert list(record.values["observed_us"]) == [0, 0]
    record = await node.tick(1)
    assert list(record.values["observed_us"]) == [SECOND_US, SECOND_US]


async def test_a_step_of_the_wall_clock_begins_a_new_run() -> None:
    node = Node()
    first = await node.tick()
    await node.tick()
    node.clock.wall -= 3_600 * SECOND_US
    stepped = await node.tick()
    assert stepped.run != first.run
    assert stepped.sequence == 0
    assert list(stepped.values["observed_us"]) == [0, 0]
    assert len(stepped.labels) == 2
    assert stepped.time_us - node.clock.wall_us() in {0, 1}  # an EventClock never repeats itself


async def test_labels_come_once_a_minute() -> None:
    node = Node()
    labelled = [second for second in range(130) if (await node.tick()).labels]
    assert labelled == [0, 60, 120]


@pytest.mark.parametrize("change", ["uuid", "occupant", "energy_epoch", "counter", "slot"])
async def test_label_epoch_ends(change: str) -> None:
    node = Node()
    await node.tick()
    before = await node.tick()
    if change in {"uuid", "occupant"}:
        node.first.labels = replace(node.first.labels, **{change: "other"})
    elif change == "energy_epoch":
        node.first.energy_epoch = 7
    elif change == "counter":
        node.first.values = {**BUSY, "energy_mj": 5}
    else:
        node.backend.found.append(ScriptedDevice(3, BUSY))
    after = await node.tick()
    assert after.label_epoch == before.label_epoch + 1
    assert len(after.labels) == len(after.slots)
    assert (await node.tick()).label_epoch == after.label_epoch


async def test_energy_by_power_where_there_is_no_counter() -> None:
    node = Node()
    node.first.values = {"power_w": 250.0, "gpu_utilization": 0.5}
    first = await node.tick()
    record = await node.tick()
    assert list(record.values["energy_mj"]) == [250_000, 1_000_000]
    assert first.energy_epochs[0] == record.energy_epochs[0] != 1001
    assert record.energy_epochs[1] == 1002
    other = Node()
    other.first.values = {"power_w": 250.0}
    assert (await other.tick()).energy_epochs[0] != first.energy_epochs[0]


async def test_a_counter_that_fails_once_is_not_replaced() -> None:
    """Power's integral and the device's counter must never mix in one epoch."""
    node = Node()
    await node.tick()
    node.first.values = {"power_w": 500.0, "gpu_utilization": 1.0}
    record = await node.tick()
    assert record.values["energy_mj"][0] == COUNTER_ABSENT
    assert record.label_epoch == 0


async def test_driver_gone_and_back() -> None:
    node = Node()
    await node.tick()
    for device in (node.first, node.second):
        device.error = DriverGoneError("driver not loaded")
    node.backend.available = False
    record = await node.tick()
    assert list(record.values["down_us"]) == [SECOND_US, SECOND_US]
    await until(lambda: node.backend.closed == 1)
    for _ in range(5):
        record = await node.tick()
    assert list(record.values["down_us"]) == [6 * SECOND_US, 6 * SECOND_US]
    node.first.error = node.second.error = None
    node.backend.available = True
    async with asyncio.timeout(10):
        while node.agent.driver.state != "open":
            record = await node.tick()
            await asyncio.sleep(0.001)
    record = await node.tick()
    assert node.backend.opened == 1
    assert record.values["power_w"] == [500.0, 500.0]
    assert [event.kind for event in node.events] == ["driver_gone", "driver_back"]


async def test_rescans_once_a_minute() -> None:
    node = Node()
    for rescans in (1, 2):
        for _ in range(60):
            await node.tick()
        await until(lambda reached=rescans: node.backend.rescans == reached)
    await node.tick()
    assert node.backend.rescans == 2


async def test_run_says_start_and_stop_and_ends_after_its_ticks() -> None:
    node = Node()
    agent = Agent(
        node.backend, SystemClock(), AgentSettings("n1", interval_s=0.1, ticks=3),
        node.records.append, node.events.append,
    )  # fmt: skip
    await asyncio.wait_for(agent.run(asyncio.Event()), 30)
    assert [event.kind for event in node.events] == ["agent_start", "agent_stop"]
    assert [record.sequence for record in node.records] == [0, 1, 2]
    assert node.records[2].time_us - node.records[0].time_us >= 100_000
