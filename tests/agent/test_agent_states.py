"""States as events, the driver let go and taken back, who is on it, and facts."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from manual_clock import ManualClock
from scripted_node import ScriptedBackend, ScriptedDevice

from collectors.agent.agent import Agent
from collectors.agent.around import AgentSettings, Around
from collectors.agent.occupants import Occupants, Seat
from collectors.contract.facts import NodeFacts
from collectors.contract.flop import FlopMethod, FlopWindow
from collectors.contract.identity import pack_slot, slot_text, unpack_slot
from collectors.contract.record import NodeRecord, SlotLabels
from collectors.contract.source import (
    DeviceEvent,
    DeviceLostError,
    DriverGoneError,
    GpuProcess,
    RestartNeededError,
    Sample,
    TransientError,
    UnsupportedError,
)
from collectors.contract.topics import Allocation, Event, Subject
from collectors.kit.clock import SystemClock

BUSY = {"gpu_utilization": 1.0, "power_w": 500.0, "energy_mj": 1_000_000}


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not reached():  # noqa: ASYNC110 -- a thread's doing has no event of ours
            await asyncio.sleep(0.001)


@dataclass
class Found:
    occupants: Mapping[int, str] = field(default_factory=dict[int, str])
    allocations: Sequence[Allocation] = ()
    missing: Mapping[str, str] = field(default_factory=dict[str, str])


class Node:
    """An agent on two scripted devices, ticked by hand."""

    def __init__(self, *, opened: bool = True, real: bool = False) -> None:
        self.clock = ManualClock()
        self.first, self.second = ScriptedDevice(1, BUSY), ScriptedDevice(2, BUSY)
        self.backend = ScriptedBackend([self.first, self.second])
        self.records: list[NodeRecord] = []
        self.events: list[Event] = []
        self.facts: list[NodeFacts] = []
        self.allocations: list[Allocation] = []
        self.asked: list[tuple[Sequence[Seat], Sequence[GpuProcess]]] = []
        self.found: Found | Exception = Found()
        clock = SystemClock() if real else self.clock
        self.occupants = Occupants(self._poll, clock, self.allocations.append)
        self.around = Around(on_facts=self.facts.append, occupants=self.occupants)
        settings = AgentSettings("n1", 0.1 if real else 1.0, release_s=900, budget=60)
        self.agent = Agent(
            self.backend, clock, settings, self.records.append, self.events.append,
            opened=opened, around=self.around,
        )  # fmt: skip

    def _poll(self, seats: Sequence[Seat], processes: Sequence[GpuProcess]) -> Found:
        self.asked.append((seats, processes))
        if isinstance(self.found, Exception):
            raise self.found
        return self.found

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]

    async def tick(self, seconds: float = 1.0) -> None:
        self.clock.move(seconds)
        await self.agent.tick()
        await asyncio.sleep(0)

    async def asked_times(self, count: int) -> None:
        await until(lambda: len(self.asked) == count and not self.occupants.asking)


async def test_a_gpu_that_needs_a_reset_is_told_from_a_lost_one() -> None:
    node = Node()
    await node.tick()
    node.first.error = DeviceLostError("reset required")
    node.first.state = "needs_reset"
    node.second.error = DeviceLostError("off the bus")
    await node.tick(20)
    assert [(e.kind, e.uuid, e.text) for e in node.events] == [
        ("gpu_needs_reset", "GPU-1", "reset required"),
        ("gpu_lost", "GPU-2", "off the bus"),
    ]
    assert [gpu.state for gpu in node.facts[-1].gpus] == ["needs_reset", "lost"]
    for _ in range(30):
        await node.tick()
    assert len(node.events) == 2, "a state is told once"


async def test_what_nobody_foresaw_costs_one_reading_of_one_gpu() -> None:
    node = Node()
    node.first.error = ZeroDivisionError("a slip in a backend")
    await node.tick()
    await node.tick()
    assert node.agent.slots.failures == {"unforeseen": 2}
    assert list(node.records[-1].values["down_us"]) == [1_000_000, 0]


async def test_a_gpu_that_the_driver_does_not_list_any_more_is_lost() -> None:
    node = Node()
    await node.tick()
    node.backend.found.remove(node.second)
    await node.tick()
    assert node.kinds() == ["gpu_lost"]
    assert list(node.records[-1].values["down_us"]) == [0, 1_000_000]


async def test_instances_come_and_go_with_their_gpu() -> None:
    node = Node()
    whole = node.first.slot
    instance = pack_slot(unpack_slot(whole)._replace(gi=3, ci=0))
    node.first.instances = [
        Sample(SlotLabels(instance, "MIG-1"), 7, {"sm_activity": 0.5}, parent=whole)
    ]
    node.first.running = [GpuProcess(instance, 10), GpuProcess(instance, 11)]
    node.second.running = [GpuProcess(node.second.slot, 12)]
    await node.tick()
    record = node.records[-1]
    assert list(record.slots) == [whole, node.second.slot, instance]
    assert list(record.values["processes"]) == [2, 1, 2]
    node.first.error = DeviceLostError("off the bus")
    await node.tick()
    assert list(node.records[-1].values["down_us"]) == [1_000_000, 0, 1_000_000]
    assert node.kinds() == ["gpu_lost"], "the event is the GPU's"
    node.first.error = None
    node.first.instances = []
    await node.tick()
    assert list(node.records[-1].slots) == [whole, node.second.slot]


async def test_processes_stand_in_the_tick_in_which_they_were_read() -> None:
    node = Node()
    node.second.processes_error = UnsupportedError("no permission")
    node.first.running = [GpuProcess(1, 10)]
    ticks: list[int] = []
    for tick in range(25):
        await node.tick()
        if "processes" in node.records[-1].values:
            ticks.append(tick)
            values = node.records[-1].values["processes"]
            assert values[0] == 1
            assert values[1] != values[1], "absent is not zero"
    assert ticks == [0, 10, 20]
    assert not any(node.records[-1].values["down_us"])


async def test_no_process_is_a_real_zero() -> None:
    node = Node()
    await node.tick()
    assert list(node.records[-1].values["processes"]) == [0, 0]


async def test_occupants_and_allocations() -> None:
    node = Node()
    claim = Allocation("agent:n1:slurm", "7", "", "", "7", (Subject("n1", (slot_text(1),)),), 1)
    node.found = Found({1: "slurm:7"}, [claim], {"kubernetes": "no socket"})
    node.first.running = [GpuProcess(1, 10)]
    await node.tick()
    await node.asked_times(1)
    assert [(seat.slot, seat.uuid, seat.number) for seat in node.asked[0][0]] == [
        (1, "GPU-1", 0), (2, "GPU-2", 0),
    ]  # fmt: skip
    assert [process.pid for process in node.asked[0][1]] == [10]
    assert node.allocations == [claim]
    await node.tick()
    assert [label.occupant for label in node.records[-1].labels] == ["slurm:7", ""]
    node.first.error = DeviceLostError("off the bus")
    await node.tick()
    assert node.events[-1].occupant == "slurm:7"
    await node.tick(10)
    await node.asked_times(2)
    # A GPU that cannot be asked has not lost its job.
    assert [process.pid for process in node.asked[1][1]] == [10]
    await node.tick(10)
    assert node.facts[-1].missing["kubernetes"] == "no socket"


async def test_an_attributor_that_fails_is_believed_for_a_minute_only() -> None:
    node = Node()
    node.found = Found({1: "slurm:7"})
    await node.tick()
    await node.asked_times(1)
    node.found = OSError("a file system that hangs")
    for second in (10, 10, 10, 10, 10):
        await node.tick(second)
        assert node.agent.occupant_of(1) == "slurm:7"
        await until(lambda: not node.occupants.asking)
    await node.tick(20)
    assert node.agent.occupant_of(1) == ""
    await node.tick(10)
    assert "a file system that hangs" in node.facts[-1].missing["attribution"]


async def test_facts_come_at_first_when_they_change_and_now_and_then() -> None:
    node = Node()
    for _ in range(650):
        await node.tick()
    assert len(node.facts) == 2
    first = node.facts[0]
    assert (first.node, first.source, first.origin) == ("n1", "nvml", "measured")
    assert [gpu.slot for gpu in first.gpus] == [slot_text(1), slot_text(2)]
    node.second.error = DeviceLostError("off the bus")
    for _ in range(11):
        await node.tick()
    assert [gpu.state for gpu in node.facts[-1].gpus] == ["ok", "lost"]
    assert len(node.facts) == 3


async def test_facts_say_where_an_exporter_measures_in_the_devices_place() -> None:
    node = Node()
    node.second.windows = [FlopWindow(FlopMethod.PIPE, 1_000_000, 5.0, 4.0, 6.0)] * 3
    exported = FlopWindow(FlopMethod.EXPORTER, 1_000_000, 7.0, 6.0, 8.0)
    node.around.window_of = lambda _labels, _values, _now_us: exported
    await node.tick()
    await node.tick(20)
    assert [gpu.flop_method for gpu in node.facts[-1].gpus] == ["dcgm_pipe", "none"]


async def test_let_go_and_taken_back() -> None:
    node = Node()
    await node.tick()
    node.agent.driver.release()
    await node.tick()
    await until(lambda: node.backend.closed == 1)
    readings = node.first.readings
    for _ in range(20):
        await node.tick()
    assert node.first.readings == readings
    assert list(node.records[-1].values["down_us"]) == [21_000_000] * 2
    assert [gpu.state for gpu in node.facts[-1].gpus] == ["released", "released"]
    assert "driver" in node.facts[-1].missing
    node.agent.driver.release()
    await node.tick()
    await until(lambda: node.agent.driver.state == "open")
    await node.tick()
    assert list(node.records[-1].values["power_w"]) == [500.0, 500.0]
    assert node.kinds() == ["driver_released", "driver_back"]


async def test_let_go_is_taken_back_by_itself() -> None:
    node = Node()
    await node.tick()
    node.agent.driver.release()
    await node.tick()
    await until(lambda: node.backend.closed == 1)
    await node.tick(898)
    assert node.agent.driver.state == "released"
    for _ in range(3):
        await node.tick(5)
        await asyncio.sleep(0.001)
    await until(lambda: node.agent.driver.state == "open")


@pytest.mark.parametrize("found", [True, False])
async def test_let_go_while_it_is_being_opened(found: bool) -> None:
    node = Node(opened=False)
    opening, go_on = threading.Event(), threading.Event()

    def slowly() -> None:
        opening.set()
        go_on.wait(10)

    node.backend.available, node.backend.on_open = found, slowly
    starting = asyncio.create_task(node.agent.driver.start(10))
    await until(opening.is_set)
    node.agent.driver.release()
    go_on.set()
    await starting
    await until(lambda: "driver_released" in node.kinds())
    for _ in range(100):
        await node.tick()
    assert node.agent.driver.state == "released"
    assert node.backend.closed == node.backend.opened == found, "nothing holds the driver"
    assert node.first.readings == 0


async def test_without_a_driver_it_stays_says_so_and_finds_it_later() -> None:
    node = Node(opened=False)
    node.backend.available = False
    await node.agent.driver.start(5)
    await node.tick()
    assert node.records == []
    assert node.facts[-1].missing["driver"] == "no driver"
    assert node.facts[-1].gpus == ()
    attempts = 0
    original = node.backend.open

    def counted() -> None:
        nonlocal attempts
        attempts += 1
        original()

    node.backend.open = counted
    for _ in range(600):
        await node.tick()
        await asyncio.sleep(0.001)
    assert 5 <= attempts <= 20, "with patience"
    node.backend.available = True
    for _ in range(61):
        await node.tick()
        await asyncio.sleep(0.001)
    assert len(node.records) > 0
    assert node.kinds() == [], "a driver that was never there is not back"


@pytest.mark.parametrize("where", ["read", "rescan", "events", "reopen"])
async def test_only_a_new_process_helps(where: str) -> None:
    node = Node(real=True)
    error = RestartNeededError("driver and library versions differ")

    def refuse() -> None:
        raise error

    task = asyncio.create_task(node.agent.run(asyncio.Event()))
    await until(lambda: len(node.records) >= 2)
    if where == "read":
        node.first.error = error
    elif where == "rescan":
        node.backend.on_rescan = refuse
        node.agent.driver.search_soon()
    elif where == "events":
        node.backend.hears = True
        node.backend.reports.put(error)
        node.agent.driver.release()
        await until(lambda: node.backend.closed == 1)
        node.agent.driver.release()
    else:
        node.backend.on_open = refuse
        node.first.error = DriverGoneError("driver not loaded")
    with pytest.raises(RestartNeededError):
        await asyncio.wait_for(task, 30)
    assert node.kinds()[-2:] == ["driver_mismatch", "agent_stop"]


async def test_events_come_on_a_thread_of_their_own_which_is_out_before_the_driver_goes() -> None:
    node = Node(real=True)
    node.backend.hears = True
    stop = asyncio.Event()
    task = asyncio.create_task(node.agent.run(stop))
    node.backend.reports.put(DeviceEvent("xid", 1, "GPU-1", 79, "fell off the bus"))
    await until(lambda: "xid" in node.kinds())
    event = next(event for event in node.events if event.kind == "xid")
    assert (event.code, event.source, event.slot) == (79, "driver", slot_text(1))
    rescans = node.backend.rescans
    node.backend.reports.put(DeviceEvent("mig_changed", 1, "GPU-1"))
    await until(lambda: node.backend.rescans == rescans + 1)
    node.backend.reports.put(TransientError("not now"))
    node.backend.reports.put(DeviceEvent("xid", 2, "GPU-2", 31))
    await until(lambda: [event.code for event in node.events].count(31) == 1)
    stop.set()
    await asyncio.wait_for(task, 30)
    assert node.backend.closed == 1, "the scripted backend refuses to be closed while listened to"


async def test_the_kernel_log_knows_places_and_the_agent_who_sits_there() -> None:
    node = Node()
    await node.tick()
    node.agent.take_events([DeviceEvent("xid", 2, code=79), DeviceEvent("xid", 77)], "kernel_log")
    told = [(event.uuid, event.source) for event in node.events]
    assert told == [("GPU-2", "kernel_log"), ("", "kernel_log")]


async def test_no_events_to_be_had_is_a_fact() -> None:
    node = Node(real=True)
    stop = asyncio.Event()
    task = asyncio.create_task(node.agent.run(stop))
    await until(lambda: node.agent.driver.deaf != "")
    stop.set()
    await asyncio.wait_for(task, 30)
    assert node.agent.driver.deaf.startswith("no events")
