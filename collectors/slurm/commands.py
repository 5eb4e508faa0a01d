"""`petawatch watch-slurm`."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import click
import msgspec

from collectors.contract.bus import Bus
from collectors.kit.buses import open_bus
from collectors.kit.clock import SystemClock
from collectors.kit.config import load
from collectors.kit.lifecycle import stop_signals
from collectors.kit.options import setting_options
from collectors.slurm.settings import SlurmSettings
from collectors.slurm.tools import SlurmAwayError, SlurmTools
from collectors.slurm.watcher import Watcher


@click.command("watch-slurm")
@setting_options(SlurmSettings, "bus", "cluster", "state", "poll_s", "accounting_s", "topic_prefix")
@click.option("--stdout", "to_stdout", is_flag=True,
              help="Ask Slurm once and print the runs that have GPUs, as JSON lines.")  # fmt: skip
def watch_slurm(*, config: Path | None, to_stdout: bool, **options: object) -> None:
    """Tells the ledger which Slurm job has which GPUs.

    To the second of Slurm's accounting: docs/slurm.md.
    """
    settings = load(SlurmSettings, environ=os.environ, options=options, file=config)
    if not to_stdout and settings.bus is None:
        raise click.UsageError("Where to? Give --bus kafka://host:port, or --stdout to print.")
    clock = SystemClock()
    tools = SlurmTools(timeout_s=settings.timeout_s)
    bus = open_bus(settings.bus or "sqlite:////dev/null", clock)
    watcher = Watcher(settings, bus, tools, clock)
    asyncio.run(_print(watcher) if to_stdout else _watch(watcher, bus))


async def _watch(watcher: Watcher, bus: Bus) -> None:
    stop = asyncio.Event()
    try:
        with stop_signals(stop):
            await watcher.run(stop)
    finally:
        await bus.close()


async def _print(watcher: Watcher) -> None:
    try:
        await watcher.find_cluster()
        await watcher.ask_queue()
        await watcher.ask_accounting()
    except SlurmAwayError as error:
        raise click.ClickException(str(error)) from error
    for run in watcher.book.runs:
        click.echo(msgspec.json.encode(run))
