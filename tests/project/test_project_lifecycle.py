"""Stages stop in the order in which data flows, within one deadline; a failure is reported."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from collectors.kit.clock import SystemClock
from collectors.kit.lifecycle import Stage, StageFailedError, run_stages, stop_signals

CLOCK = SystemClock()


def stage(name: str, log: list[str]) -> Stage:
    async def run(stop: asyncio.Event) -> None:
        log.append(f"{name} on")
        await stop.wait()
        log.append(f"{name} off")

    return Stage(name, run)


async def soon(stop: asyncio.Event, condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 -- no event to wait on: the stages know nothing of it
        await asyncio.sleep(0)
    stop.set()


async def test_order_of_stopping() -> None:
    log: list[str] = []
    stop = asyncio.Event()
    names = ("source", "store", "serve")
    stages = [stage(name, log) for name in names]
    await asyncio.gather(run_stages(stages, stop, CLOCK), soon(stop, lambda: len(log) == 3))
    assert log == [*(f"{name} on" for name in names), *(f"{name} off" for name in names)]


async def test_a_failure_stops_the_others_and_is_the_cause() -> None:
    log: list[str] = []

    async def fail(_: asyncio.Event) -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError("by zero")

    stages = [stage("a", log), Stage("bad", fail), stage("c", log)]
    with pytest.raises(StageFailedError, match="bad failed: by zero") as caught:
        await run_stages(stages, asyncio.Event(), CLOCK)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert log[-2:] == ["a off", "c off"]


async def test_one_that_ends_leaves_the_others() -> None:
    log: list[str] = []
    stop = asyncio.Event()

    async def short(_: asyncio.Event) -> None:
        log.append("short ended")

    stages = [Stage("short", short), stage("long", log)]
    group = asyncio.create_task(run_stages(stages, stop, CLOCK))
    await soon(asyncio.Event(), lambda: len(log) == 2)
    assert not group.done()
    stop.set()
    await group
    assert log[-1] == "long off"


async def test_all_ended_is_the_end() -> None:
    async def short(_: asyncio.Event) -> None:
        return

    await run_stages([Stage("a", short), Stage("b", short)], asyncio.Event(), CLOCK)


async def test_deadline_is_shared(caplog: pytest.LogCaptureFixture) -> None:
    async def deaf(_: asyncio.Event) -> None:
        await asyncio.Event().wait()

    stop = asyncio.Event()
    stop.set()
    begin_us = CLOCK.monotonic_us()
    stages = [Stage("deaf", deaf), Stage("deafer", deaf)]
    await run_stages(stages, stop, CLOCK, deadline_s=0.2)
    assert CLOCK.monotonic_us() - begin_us < 2_000_000
    assert "stage_cancelled stage=deaf " in caplog.text
    assert "stage_cancelled stage=deafer " in caplog.text


async def test_cancelling_the_group_cancels_its_stages() -> None:
    ended = asyncio.Event()

    async def run(stop: asyncio.Event) -> None:
        try:
            await stop.wait()
        finally:
            ended.set()

    group = asyncio.create_task(run_stages([Stage("a", run)], asyncio.Event(), CLOCK))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    group.cancel()
    with pytest.raises(asyncio.CancelledError):
        await group
    assert ended.is_set()


async def test_first_signal_sets_stop() -> None:
    stop = asyncio.Event()
    with stop_signals(stop):
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(stop.wait(), 5)


async def test_heartbeat_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PETAWATCH_HEARTBEAT", str(tmp_path / "alive"))
    monkeypatch.setattr("collectors.kit.lifecycle._HEARTBEAT_S", 0.001)
    with stop_signals(asyncio.Event()):
        first_ns = (tmp_path / "alive").stat().st_mtime_ns
        while (tmp_path / "alive").stat().st_mtime_ns == first_ns:  # noqa: ASYNC110 -- a file has no event
            await asyncio.sleep(0)


PROGRAM = """
import asyncio
from collectors.kit.lifecycle import stop_signals

async def main():
    stop = asyncio.Event()
    with stop_signals(stop):
        print("ready", flush=True)
        await stop.wait()
        print("draining", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


def test_second_signal_ends_at_once() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGINT)
        assert child.stdout.readline() == "draining\n"
        child.send_signal(signal.SIGTERM)
        assert child.wait(10) == 128 + signal.SIGTERM
