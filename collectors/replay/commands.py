"""`petawatch replay`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click

from collectors.agent.producers import open_producer
from collectors.agent.render import record_line
from collectors.contract.bus import Producer
from collectors.contract.record import NodeRecord, SlotLabels
from collectors.kit.clock import Clock, SystemClock
from collectors.kit.lifecycle import stop_signals
from collectors.kit.options import parse_speed
from collectors.replay.recording import Recording
from collectors.replay.source import ReplaySource, check_model, find_zone


class StderrProgress:
    """One line on standard error: rewritten on a terminal, now and then a new one elsewhere."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._terminal = sys.stderr.isatty()
        self._next_us = 0

    def __call__(self, done: int, rows: int) -> None:
        """Shows how far it is."""
        now_us = self._clock.monotonic_us()
        if now_us < self._next_us and done < rows:
            return
        self._next_us = now_us + (200_000 if self._terminal else 5_000_000)
        text = f"replay: {done:,} of {rows:,} rows ({done / rows:.0%})"
        end = "\n" if done >= rows or not self._terminal else ""
        sys.stderr.write(("\r" if self._terminal else "") + text + end)
        sys.stderr.flush()


def _speed(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """As life goes, but what is only printed need not wait."""
    if value is None:
        return None if ctx.params.get("to_stdout") else 1.0
    return parse_speed(ctx, param, value)


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE…",
                type=click.Path(exists=True, dir_okay=False, path_type=Path))  # fmt: skip
@click.option("--speed", callback=_speed, metavar="N|max",
              help="Times real time, or as fast as it goes. [1; max with --stdout]")  # fmt: skip
@click.option(
    "--keep-time", is_flag=True, help="Leave times as recorded; else the last row is now."
)
@click.option(
    "--stdout",
    "to_stdout",
    is_flag=True,
    is_eager=True,
    help="Print JSON lines instead of sending.",
)
@click.option("--bus", envvar="PETAWATCH_BUS", metavar="URL",
              help="kafka://host:port[,host:port] or sqlite:///path.")  # fmt: skip
@click.option("--node", help="The node's name [the file's].")
@click.option("--model", default="", help="GPU model, where the recording does not say.")
@click.option("--zone", default="UTC", show_default=True, help="Zone of times without one.")
@click.option("--topic-prefix", default="", envvar="PETAWATCH_TOPIC_PREFIX",
              help="Stands before every topic's name.")  # fmt: skip
def replay(
    *,
    files: tuple[Path, ...],
    speed: float | None,
    keep_time: bool,
    to_stdout: bool,
    bus: str | None,
    node: str | None,
    model: str,
    zone: str,
    topic_prefix: str,
) -> None:
    """Sends recorded telemetry as if it came from live nodes.

    Reads nvidia-smi CSV logs, `nvidia-smi -q` as XML and as text, its table, and pages of
    dcgm-exporter and nvidia_gpu_exporter, all also gzipped.
    """
    if not to_stdout and bus is None:
        raise click.UsageError("Where to? Give --bus kafka://host:port, or --stdout to print.")
    clock = SystemClock()
    try:
        recording = Recording(files, zone=find_zone(zone), node=node, model=check_model(model))
        source = ReplaySource(
            recording, clock, speed=speed, keep_time=keep_time,
            topic_prefix=topic_prefix, progress=StderrProgress(clock),
        )  # fmt: skip
    except (ValueError, OSError) as error:
        raise click.UsageError(str(error)) from error
    if to_stdout or bus is None:
        asyncio.run(_print(source))
    else:
        asyncio.run(_send(source, open_producer(bus)))
    if source.unsent:
        raise click.ClickException(f"{source.unsent} rows and all after them were not sent")
    if source.refused:
        raise click.ClickException(f"the bus refused {source.refused} records; see the log")


async def _print(source: ReplaySource) -> None:
    stop = asyncio.Event()
    labels: dict[str, dict[int, SlotLabels]] = {}

    async def write(batch: list[NodeRecord]) -> None:
        for record in batch:
            known = labels.setdefault(record.node, {})
            known.update({label.slot: label for label in record.labels})
            sys.stdout.buffer.write(record_line(record, known) + b"\n")
        sys.stdout.buffer.flush()

    with stop_signals(stop):
        await source.play(write, stop)


async def _send(source: ReplaySource, producer: Producer) -> None:
    stop = asyncio.Event()
    with stop_signals(stop):
        try:
            await source.run(producer, stop)
        finally:
            await producer.stop()
