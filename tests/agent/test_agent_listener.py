"""Who waits for reports: longer while none come, and shortly again after one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from collectors.agent.threads import Listener
from collectors.contract.source import DeviceEvent, UnsupportedError


async def test_waits_grow_while_nothing_comes_and_begin_again_after_a_report() -> None:
    asked: list[float] = []
    heard: list[DeviceEvent] = []
    ended = asyncio.Event()

    def wait(timeout_s: float) -> Sequence[DeviceEvent]:
        asked.append(timeout_s)
        if len(asked) == 5:
            return [DeviceEvent("xid", 1)]
        if len(asked) == 8:
            raise UnsupportedError("the test is over")
        return ()

    listener = Listener("test", wait, heard.extend, lambda _: ended.set(), longest_s=5.0)
    listener.start()
    async with asyncio.timeout(30):
        await ended.wait()
    assert asked == [1.0, 2.0, 4.0, 5.0, 5.0, 1.0, 2.0, 4.0]
    assert [event.kind for event in heard] == ["xid"]
