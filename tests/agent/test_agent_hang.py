"""A call that hangs costs the other GPUs nothing, and does not hold up the end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_node import ScriptedBackend, ScriptedDevice

from collectors.agent.agent import Agent
from collectors.agent.around import AgentSettings
from collectors.agent.lanes import Lanes
from collectors.agent.windows import joined
from collectors.contract.flop import FlopFlag, FlopMethod, FlopWindow
from collectors.contract.record import NodeRecord
from collectors.contract.source import DriverGoneError, RestartNeededError
from collectors.contract.topics import Event
from collectors.kit.clock import SystemClock

BUSY = {"gpu_utilization": 1.0, "power_w": 500.0, "energy_mj": 1_000_000}
INTERVAL_S = 0.2


class Node:
    """An agent in real time on eight scripted devices."""

    def __init__(self, count: int = 8) -> None:
        self.devices = [ScriptedDevice(slot, BUSY) for slot in range(1, count + 1)]
        self.backend = ScriptedBackend(self.devices)
        self.records: list[NodeRecord] = []
        self.events: list[Event] = []
        self.held = threading.Event()
        self.agent = Agent(
            self.backend, SystemClock(), AgentSettings("n1", INTERVAL_S, rescan_s=3600),
            self.records.append, self.events.append,
        )  # fmt: skip

    def hang(self, *which: int) -> None:
        for index in which:
            self.devices[index].before_read = self.held.wait

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        stop = asyncio.Event()
        task = asyncio.create_task(self.agent.run(stop))
        try:
            yield
        finally:
            stop.set()
            await asyncio.wait_for(task, 30)
            self.held.set()


async def until(reached: Callable[[], bool], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not reached():  # noqa: ASYNC110 -- a thread's doing has no event of ours
            await asyncio.sleep(0.005)


def read(record: NodeRecord) -> list[bool]:
    """Which slots gave a power in a record."""
    return [power == power for power in record.values.get("power_w", ())]  # noqa: PLR0124


async def test_a_hanging_gpu_costs_the_others_no_tick() -> None:
    node = Node()
    async with node.running():
        await until(lambda: len(node.records) >= 2)
        node.hang(3)
        await until(lambda: "gpu_hung" in node.kinds())
        hung = len(node.records)
        await until(lambda: len(node.records) >= hung + 5)
        assert node.agent.lanes.threads <= 2
        after = node.records[2:]
        # Every tick has its record, and in each the seven others were read.
        assert [record.sequence for record in node.records] == list(range(len(node.records)))
        for record in after:
            assert [good for index, good in enumerate(read(record)) if index != 3] == [True] * 7
        assert not read(node.records[-1])[3]
        down_us = [record.values["down_us"][3] for record in node.records]
        assert down_us[-1] > down_us[hung - 1] > 0
        assert all(record.values["down_us"][0] == 0 for record in node.records)
        event = next(event for event in node.events if event.kind == "gpu_hung")
        assert (event.uuid, event.source, event.concerns) == ("GPU-4", "agent", "operator")
        node.held.set()
        node.devices[3].before_read = None
        await until(lambda: node.kinds()[-1] == "gpu_recovered")
        await until(lambda: read(node.records[-1])[3])
    assert node.kinds() == ["agent_start", "gpu_hung", "gpu_recovered", "agent_stop"]


async def test_all_hang_and_the_end_comes_all_the_same() -> None:
    node = Node()
    stop = asyncio.Event()
    node.hang(*range(8))
    task = asyncio.create_task(node.agent.run(stop))
    await until(lambda: node.kinds().count("gpu_hung") == 8)
    assert node.agent.lanes.threads <= 9
    # A device that has not answered is not asked again.
    assert [device.readings for device in node.devices] == [1] * 8
    stop.set()
    await asyncio.wait_for(task, 30)  # the calls would never end
    assert node.backend.closed == 0, "closed beside calls that were under way"
    assert node.records
    assert not any(any(read(record)) for record in node.records)
    node.held.set()


async def test_two_slow_gpus_are_read_beside_the_others() -> None:
    """After two ticks each has a thread of its own, until it has been quick again for a while."""
    node = Node()
    lanes = Lanes(SystemClock())
    together = threading.Barrier(2)

    async def tick() -> None:
        answers = await lanes.read(node.devices, inquire=False, share_s=0.02, deadline_s=60)
        assert len(answers) == 8
        assert all(answer.error is None for answer in answers.values())

    for index in (2, 5):
        node.devices[index].before_read = lambda: time.sleep(0.08)
    await tick()
    await tick()
    assert lanes.threads <= 9
    for index in (2, 5):  # each waits for the other: one after the other, neither would end
        node.devices[index].before_read = lambda: together.wait(50)
    for _ in range(3):
        await tick()
    for index in (2, 5):
        node.devices[index].before_read = None
    for _ in range(12):
        await tick()

    # A machine that is busy makes a reading slow by itself: it has to be quick in a row.
    async with asyncio.timeout(60):
        while lanes.threads > 1:
            await tick()
    lanes.end()


async def test_a_late_reading_has_no_wrong_stamp_and_its_flop_is_not_lost() -> None:
    node = Node(count=2)
    window = FlopWindow(FlopMethod.PIPE, 200_000, 1000.0, 950.0, 1050.0, mean_clock_mhz=1500.0)
    device = node.devices[0]
    device.windows = [window] * 3
    lanes = node.agent.lanes
    held = threading.Event()
    device.before_read = held.wait
    late = await lanes.read(node.devices, inquire=False, share_s=0.02, deadline_s=1.0)
    assert list(late) == [2]
    assert list(lanes.stuck()) == [1]
    held.set()
    await until(lambda: not lanes.stuck())
    assert late.keys() == {2}, "an answer came into a round that was closed"
    again = await lanes.read(node.devices, inquire=False, share_s=0.02, deadline_s=5)
    assert again[1].samples[0].flop == window
    assert lanes.late_window(1) == window
    assert lanes.late_window(1) is None
    lanes.end()


async def test_the_record_after_a_late_reading_holds_both_windows() -> None:
    node = Node(count=1)
    device = node.devices[0]
    device.labels = device.labels.__class__(1, "GPU-1", "NVIDIA H100 80GB HBM3")
    await node.agent.tick()
    device.windows = [FlopWindow(FlopMethod.PIPE, 200_000, 1000.0, 900.0, 1100.0)] * 2
    device.before_read = node.held.wait
    await node.agent.tick()
    node.held.set()
    await until(lambda: not node.agent.lanes.stuck())
    device.before_read = None
    await node.agent.tick()
    assert node.records[-1].values["gflop"][0] == 2000


async def test_a_search_that_hangs_holds_up_no_tick() -> None:
    node = Node()
    node.agent = Agent(
        node.backend, SystemClock(), AgentSettings("n1", INTERVAL_S, rescan_s=0.1),
        node.records.append, node.events.append,
    )  # fmt: skip
    node.backend.on_rescan = node.held.wait
    async with node.running():
        await until(lambda: node.backend.rescans == 1)
        before = len(node.records)
        await until(lambda: len(node.records) >= before + 5)
        assert all(all(read(record)) for record in node.records)
        assert node.backend.rescans == 1
        node.held.set()


async def test_gone_beside_a_hanging_call_is_closed_only_when_it_has_ended() -> None:
    node = Node(count=2)
    node.hang(0)
    async with node.running():
        await until(lambda: len(node.agent.lanes.stuck()) == 1)
        node.devices[1].error = DriverGoneError("driver not loaded")
        await until(lambda: "driver_gone" in node.kinds())
        before = len(node.records)
        await until(lambda: len(node.records) >= before + 3)
        assert node.backend.closed == 0
        node.devices[1].error = None
        node.devices[0].before_read = None
        node.held.set()
        await until(lambda: "driver_back" in node.kinds())
        assert (node.backend.closed, node.backend.opened) == (1, 1)
        await until(lambda: all(read(node.records[-1])))


async def test_gone_beside_a_call_that_never_ends_is_a_case_for_a_new_process() -> None:
    """Else all GPUs would stay dark for the sake of one."""
    node = Node(count=2)
    node.agent = Agent(
        node.backend, SystemClock(), AgentSettings("n1", INTERVAL_S, stuck_s=0.5),
        node.records.append, node.events.append,
    )  # fmt: skip
    node.hang(0)
    node.devices[1].error = DriverGoneError("driver not loaded")
    with pytest.raises(RestartNeededError, match="only a new process"):
        await asyncio.wait_for(node.agent.run(asyncio.Event()), 30)
    assert node.backend.closed == 0
    node.held.set()


WINDOWS = st.builds(
    FlopWindow,
    st.sampled_from(FlopMethod), st.integers(0, 10**7), st.integers(0, 10**9),
    st.integers(0, 10**9), st.integers(0, 10**9), st.sampled_from(FlopFlag),
    st.none() | st.floats(100, 3000), st.none() | st.integers(0, 100), st.none(),
)  # fmt: skip


@given(WINDOWS, WINDOWS, WINDOWS)
def test_joined_windows_lose_nothing(a: FlopWindow, b: FlopWindow, c: FlopWindow) -> None:
    one, other = joined(joined(a, b), c), joined(a, joined(b, c))
    assert one is not None
    assert other is not None
    assert one.elapsed_us == other.elapsed_us == a.elapsed_us + b.elapsed_us + c.elapsed_us
    assert one.gflop == a.gflop + b.gflop + c.gflop
    assert (one.lo, one.hi) == (a.lo + b.lo + c.lo, a.hi + b.hi + c.hi)
    assert one.flags == other.flags == a.flags | b.flags | c.flags
    assert one.method is c.method
    clocks = [x.mean_clock_mhz for x in (a, b, c)]
    if None not in clocks and one.elapsed_us and one.mean_clock_mhz is not None:
        known = [clock for clock in clocks if clock is not None]
        assert min(known) <= one.mean_clock_mhz * (1 + 1e-9)
        assert one.mean_clock_mhz <= max(known) * (1 + 1e-9)


@pytest.mark.parametrize("window", [None, FlopWindow(FlopMethod.NONE, 0, 0, 0, 0)])
def test_joined_with_nothing_is_itself(window: FlopWindow | None) -> None:
    assert joined(None, window) == joined(window, None) == window
