"""Programs that the bus tests run as processes of their own, to be killed or stopped.

`send URL TOPIC` sends numbers for ever and prints each once it is acknowledged.
`member URL TOPIC GROUP` reads as a member: it prints `got N` for what it has
fetched, waits for a line, commits, and prints `committed` or `fenced`, for ever.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from pathlib import Path

from collectors.contract.bus import Bus, FencedError, Message
from collectors.kit.clock import SystemClock
from collectors.kit.sqlite_log import SqliteBus
from pipeline.bus.kafka import KafkaBus


def _bus(url: str) -> Bus:
    if url.startswith("sqlite:///"):
        return SqliteBus(Path(url.removeprefix("sqlite:///")), clock=SystemClock())
    return KafkaBus(url.removeprefix("kafka://"), clock=SystemClock(), session_timeout_s=1.0)


async def _send(url: str, topic: str) -> None:
    producer = _bus(url).producer()
    await producer.start()
    for number in itertools.count():
        batch = [Message(topic, b"%d" % (i % 7), b"%d" % (number * 20 + i)) for i in range(20)]
        await producer.send(batch)
        print(number, flush=True)


async def _member(url: str, topic: str, group: str) -> None:
    consumer = _bus(url).consumer([topic], group)
    await consumer.start()
    while True:
        chunks = await consumer.fetch(0.5)
        if not chunks:
            continue
        print("got", sum(len(chunk.values) for chunk in chunks), flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        try:
            await consumer.commit({chunk.partition: chunk.next_offset for chunk in chunks})
            print("committed", flush=True)
        except FencedError:
            print("fenced", flush=True)


if __name__ == "__main__":
    asyncio.run({"send": _send, "member": _member}[sys.argv[1]](*sys.argv[2:]))
