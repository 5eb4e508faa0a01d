"""`petawatch simulate`: a simulated centre onto a bus, or its records into a file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import click

from collectors.contract.bus import Message, Producer
from collectors.contract.source import SourceOptions
from collectors.contract.topics import GPU
from collectors.contract.wire import varint
from collectors.kit import plugins
from collectors.kit.clock import SystemClock
from collectors.kit.lifecycle import stop_signals
from collectors.kit.options import parse_speed
from collectors.simulator.faults import FAULTS
from collectors.simulator.source import DEFAULT_SITE, create


class RecordFile:
    """A producer that writes node records to a file, each behind its length as a varint.

    This is Protobuf's own delimited form.  Allocations are not written there.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.records = 0

    async def start(self) -> None:
        """Has nothing to connect to."""

    async def send(self, messages: Sequence[Message]) -> None:
        """Appends the GPU records among the messages."""
        for message in messages:
            if message.topic.endswith(GPU):
                self._file.write(varint(len(message.value)) + message.value)
                self.records += 1

    async def stop(self) -> None:
        """Flushes; the file belongs to who opened it."""
        self._file.flush()


def open_producer(url: str) -> Producer:
    """The producer of a bus by the scheme of its URL.  Raises MissingPartError."""
    opened: Callable[[str], Any] = plugins.load("petawatch.producers", url.partition(":")[0])
    return opened(url)


async def simulate_to(producer: Producer, options: SourceOptions) -> None:
    """Runs a simulation into a producer until its end or a signal."""
    stop = asyncio.Event()
    source = create(options, SystemClock())
    await producer.start()
    try:
        with stop_signals(stop):
            await source.run(producer, stop)
    finally:
        await producer.stop()
    click.echo(f"{source.sent} messages of {source.inventory.title}", err=True)


def _list_faults(context: click.Context, _: click.Parameter, value: bool) -> None:
    if not value:
        return
    for kind in FAULTS.values():
        rate = "" if kind.per_gpu_month is None else f", {kind.per_gpu_month:g} per GPU and month"
        click.echo(f"{kind.name} ({kind.family.value}; {' or '.join(kind.scopes)}{rate})")
        click.echo(f"    {kind.help}")
        if kind.strength is not None:
            s = kind.strength
            click.echo(
                f"    strength: {s.meaning}, {s.unit}, {s.low:g} to {s.high:g} [{s.default:g}]"
            )
    context.exit()


@click.command(help="Sends a simulated centre, or writes its records to a file.")
@click.option("--site", default=DEFAULT_SITE, show_default=True, help="Site, or synthetic:<gpus>.")
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    help="Simulated time; else without end.",
)
@click.option(
    "--seed", default=1, show_default=True, help="The same seed, the same jobs and figures."
)
@click.option(
    "--speed", default="1", show_default=True, callback=parse_speed, help="Times real time, or max."
)
@click.option("--start-us", type=int, help="First event time in µs since 1970 UTC; else now.")
@click.option(
    "--interval",
    "interval_s",
    default=1.0,
    show_default=True,
    help="Seconds between a node's records.",
)
@click.option(
    "--truth", type=click.Path(path_type=Path, file_okay=False), help="Folder for both truths."
)
@click.option(
    "--records", type=click.File("wb"), help="File for the records, length-delimited Protobuf."
)
@click.option(
    "--scenario", type=click.Path(path_type=Path, dir_okay=False), help="TOML list of faults."
)
@click.option(
    "--faults", default="none", show_default=True, help="none, random, or random:TIMES the rates."
)
@click.option(
    "--telemetry-faults", default="none", show_default=True, help="none, all, or KIND,KIND…"
)
@click.option("--facility/--no-facility", default=True, help="Whether racks have inlet sensors.")
@click.option(
    "--list-faults", is_flag=True, is_eager=True, expose_value=False, callback=_list_faults,
    help="What can be simulated, and the end.",
)  # fmt: skip
@click.option(
    "--bus", envvar="PETAWATCH_BUS", help="Where to send: sqlite:///FILE or kafka://HOST:PORT."
)
def simulate(
    records: BinaryIO | None,
    bus: str | None,
    scenario: Path | None,
    faults: str,
    telemetry_faults: str,
    *,
    facility: bool,
    **options: Any,
) -> None:
    """Sends a simulated centre to a bus, or writes its records to a file.

    `options` are fields of `SourceOptions`, checked by click.
    """
    if records is not None:
        producer = RecordFile(records)
        options["speed"] = None
    elif bus is not None:
        producer = open_producer(bus)
    else:
        raise click.UsageError("say where the records go: either --bus URL or --records FILE")
    if options["minutes"] is None and options["speed"] is None:
        raise click.UsageError("a simulation that does not run in real time needs --minutes")
    extra = {"faults": faults, "telemetry_faults": telemetry_faults}
    extra |= {} if facility else {"facility": "off"}
    extra |= {} if scenario is None else {"scenario": str(scenario)}
    options["extra"] = extra
    try:
        asyncio.run(simulate_to(producer, SourceOptions(**options)))
    except ValueError as error:
        raise click.UsageError(str(error)) from error
