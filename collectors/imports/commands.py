"""`petawatch import-allocations`."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import click
import msgspec

from collectors.agent.producers import open_producer
from collectors.contract.bus import Message, Producer
from collectors.contract.topics import ALLOC, Allocation, dumps
from collectors.imports.table import TableError, read_table
from collectors.kit.clock import SystemClock

_BATCH = 500


@click.command("import-allocations")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--bus", envvar="PETAWATCH_BUS", metavar="URL", help="kafka://HOST:PORT[,…].")
@click.option("--topic-prefix", envvar="PETAWATCH_TOPIC_PREFIX", default="",
              help="Stands before every topic's name.")  # fmt: skip
@click.option("--source", metavar="NAME",
              help="Who says so, behind `import:`; the same name replaces what it said before. [the file's name]")  # fmt: skip
@click.option("--withdraw", is_flag=True, help="Take back what the file's lines said.")
@click.option("--stdout", "to_stdout", is_flag=True, help="Print JSON lines instead of sending.")
def import_allocations(
    *,
    file: Path,
    bus: str | None,
    topic_prefix: str,
    source: str | None,
    withdraw: bool,
    to_stdout: bool,
) -> None:
    """Tells the ledger what a table says of who held which GPUs.

    FILE is a CSV (docs/slurm.md says how).  All of it is read before anything
    is sent.
    """
    if bus is None and not to_stdout:
        raise click.UsageError("Where to? Give --bus kafka://host:port, or --stdout to print.")
    known_us = SystemClock().wall_us()

    def records() -> Iterator[Allocation]:
        for one in read_table(file, f"import:{source or file.stem}", known_us):
            yield msgspec.structs.replace(one, deleted=withdraw)

    try:
        count = sum(1 for _ in records())
    except (TableError, OSError) as error:
        raise click.ClickException(str(error)) from error
    if to_stdout or bus is None:
        for one in records():
            click.echo(dumps(one))
        return
    asyncio.run(_send(open_producer(bus), topic_prefix + ALLOC, records()))
    click.echo(f"{count} allocations {'withdrawn' if withdraw else 'sent'}")


async def _send(producer: Producer, topic: str, records: Iterable[Allocation]) -> None:
    await producer.start()
    try:
        rest = iter(records)
        while batch := list(itertools.islice(rest, _BATCH)):
            await producer.send([Message(topic, one.key, dumps(one)) for one in batch])
    finally:
        await producer.stop()
