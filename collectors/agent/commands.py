"""`petawatch agent`."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

import click

from collectors.agent.agent import Agent, AgentSettings
from collectors.agent.producers import open_producer
from collectors.agent.render import record_line
from collectors.agent.source import AgentSource, open_backend
from collectors.contract.bus import Producer
from collectors.contract.record import NodeRecord
from collectors.contract.source import Backend
from collectors.contract.topics import Event
from collectors.kit.clock import Clock, SystemClock
from collectors.kit.lifecycle import stop_signals


def default_spool(node: str) -> Path:
    """`$XDG_STATE_HOME/petawatch/spool-<node>.sqlite`."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "petawatch" / f"spool-{node}.sqlite"


@click.command()
@click.option("--backend", default="nvml", show_default=True,
              help="nvml, or sim for one simulated node.")  # fmt: skip
@click.option("--once", is_flag=True, help="One tick, then the end.")
@click.option("--stdout", "to_stdout", is_flag=True, help="Print JSON lines instead of sending.")
@click.option("--bus", envvar="PETAWATCH_BUS", metavar="URL",
              help="kafka://host:port[,host:port] or sqlite:///path.")  # fmt: skip
@click.option("--node", envvar="PETAWATCH_NODE", help="The node's name [the host's].")
@click.option("--interval", "interval_s", type=click.FloatRange(min=0.1, max=60), default=1.0,
              show_default=True, help="Seconds between ticks.")  # fmt: skip
@click.option("--spool", type=click.Path(path_type=Path, dir_okay=False), envvar="PETAWATCH_SPOOL",
              help="What the bus cannot take is kept here [in the state directory].")  # fmt: skip
@click.option("--topic-prefix", default="", envvar="PETAWATCH_TOPIC_PREFIX",
              help="Stands before every topic's name.")  # fmt: skip
def agent(
    *,
    backend: str,
    once: bool,
    to_stdout: bool,
    bus: str | None,
    node: str | None,
    interval_s: float,
    spool: Path | None,
    topic_prefix: str,
) -> None:
    """Reads this node's GPUs and sends what they say.

    Exit status 2 when there is nothing here to read.
    """
    clock = SystemClock()
    settings = AgentSettings(node or socket.gethostname(), interval_s, ticks=1 if once else None)
    if not to_stdout and bus is None:
        raise click.UsageError("Where to? Give --bus kafka://host:port, or --stdout to print.")
    producer = None if to_stdout or bus is None else open_producer(bus)
    opened = open_backend(backend, clock, interval_s)
    if producer is None:
        asyncio.run(_print(opened, clock, settings))
    else:
        path = spool or default_spool(settings.node)
        source = AgentSource(opened, clock, settings, spool_path=path, topic_prefix=topic_prefix)
        asyncio.run(_send(source, producer))


async def _print(backend: Backend, clock: Clock, settings: AgentSettings) -> None:
    stop = asyncio.Event()

    def on_record(record: NodeRecord) -> None:
        sys.stdout.buffer.write(record_line(record, agent.labels()) + b"\n")
        sys.stdout.buffer.flush()

    def on_event(_: Event) -> None:
        """Events go to the bus alone; the log has them too."""

    agent = Agent(backend, clock, settings, on_record, on_event)
    with stop_signals(stop):
        try:
            await agent.run(stop)
        finally:
            backend.close()


async def _send(source: AgentSource, producer: Producer) -> None:
    stop = asyncio.Event()
    with stop_signals(stop):
        try:
            await source.run(producer, stop)
        finally:
            await producer.stop()
