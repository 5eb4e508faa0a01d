"""A programmed timeline of activity and clock, through NVML and the agent, to the FLOP counter."""

from __future__ import annotations

import math

import pytest
from fake_nvml import FakeGpu, FakeNvml
from manual_clock import ManualClock

from collectors.agent.agent import Agent, AgentSettings
from collectors.contract.record import NodeRecord
from collectors.contract.topics import Event
from collectors.contract.wire import encode, parse
from collectors.nvml.backend import NvmlBackend

SMS, FLOP_PER_SM_CLOCK = 132, 4096


def clock_mhz(second: float) -> float:
    """A clock that moves slowly, as under a power cap."""
    return 1600 + 150 * math.sin(second / 9)


def active_s(second: float) -> float:
    """Seconds of full tensor activity so far: ∫ (0.5 + 0.4 sin(t / 5)) dt."""
    return 0.5 * second - 2.0 * (math.cos(second / 5) - 1)


async def test_flop_within_half_a_percent_of_the_programme(fake_nvml: FakeNvml) -> None:
    clock = ManualClock()
    backend = NvmlBackend(clock)
    records: list[NodeRecord] = []
    events: list[Event] = []
    gpu = FakeGpu(gpm={})
    agent = Agent(backend, clock, AgentSettings("n1", budget=60), records.append, events.append)
    for second in range(61):
        gpu.gpm_us = {5: active_s(second) * 1e6, 2: second * 1e6}
        gpu.sets["sm_clock"] = round(clock_mhz(second))
        fake_nvml.write([gpu], now_us=second * 1_000_000)
        if second == 0:
            backend.open()
        else:
            clock.move(1)
        await agent.tick()
    backend.close()
    steps = 60_000
    programmed_gflop = sum(
        (active_s((i + 1) * 60 / steps) - active_s(i * 60 / steps)) * clock_mhz((i + 0.5) * 60 / steps)
        for i in range(steps)
    ) * SMS * FLOP_PER_SM_CLOCK / 1000  # fmt: skip
    last = parse(encode(records[-1])).values
    assert last["gflop"][0] == pytest.approx(programmed_gflop, rel=0.005)
    assert last["gflop_lo"][0] < programmed_gflop < last["gflop_hi"][0]
    assert "gflop_estimated" not in last
    assert records[0].values["gflop"] == [0]
    assert last["observed_us"][0] == pytest.approx(60_000_000, abs=1)
    assert events == []
