"""`petawatch agent`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from collectors.agent.memory import one_arena
from collectors.agent.node_agent import NodeAgent, Receivers
from collectors.agent.producers import open_producer
from collectors.agent.render import allocation_line, event_line, facts_line, record_line
from collectors.agent.settings import NodeSettings
from collectors.agent.source import AgentSource, make_backend
from collectors.contract.bus import Producer
from collectors.contract.record import NodeRecord, SlotLabels
from collectors.contract.source import Backend, RestartNeededError, SourceOptions
from collectors.kit import plugins
from collectors.kit.clock import Clock, SystemClock
from collectors.kit.config import ConfigError, load
from collectors.kit.lifecycle import StageFailedError, stop_signals
from collectors.kit.options import setting_options

if TYPE_CHECKING:
    from collections.abc import Generator

    from collectors.scrape.source import ScrapeSource

RESTART_STATUS = 75
"""EX_TEMPFAIL: only a new process can read again."""
SHARED_VARIABLES = ("BUS", "NODE", "SPOOL", "TOPIC_PREFIX")
"""Variables that hold without AGENT_ in them too, as other commands read them."""


class RestartRefusal(click.ClickException):
    """The supervisor shall start it again."""

    exit_code = RESTART_STATUS


@click.command()
@setting_options(NodeSettings, "backend", "bus", "node", "spool", "topic_prefix", "metrics_port",
                 "scrape_targets", "wait_for_driver")  # fmt: skip
@click.option("--interval", "--interval-s", "interval_s", metavar="SECONDS",
              help="Seconds between readings. [1.0; exporters: 15.0]")  # fmt: skip
@click.option("--scrape", multiple=True, metavar="URL",
              help="An exporter to read instead of this node's GPUs; may be given again.")  # fmt: skip
@click.option("--once", is_flag=True, help="One reading, then the end.")
@click.option("--stdout", "to_stdout", is_flag=True, help="Print JSON lines instead of sending.")
def agent(
    *, config: Path | None, once: bool, to_stdout: bool, scrape: tuple[str, ...], **options: object
) -> None:
    """Reads this node's GPUs and sends what they say.

    Exit status 2 when there is nothing here to read or a setting is wrong, 75
    when only a new process can go on, 1 for what else ends it before it is
    asked to end.
    """
    options["scrape"] = scrape or None
    settings = agent_settings(config, options)
    if not to_stdout and settings.bus is None:
        raise click.UsageError("Where to? Give --bus kafka://host:port, or --stdout to print.")
    bus = None if to_stdout else settings.bus
    try:
        if settings.scrape or settings.scrape_targets is not None:
            _scrape(settings, bus, once=once, chosen=options["interval_s"] is not None)
        else:
            _read(settings, bus, once=once)
    except RestartNeededError as error:
        raise RestartRefusal(str(error)) from error
    except StageFailedError as error:
        if isinstance(error.__cause__, RestartNeededError):
            raise RestartRefusal(str(error.__cause__)) from error
        raise


def agent_settings(file: Path | None, options: Mapping[str, object]) -> NodeSettings:
    """The settings that hold for this process.  Raises ConfigError."""
    environ = dict(os.environ)
    for name in SHARED_VARIABLES:
        shared = environ.get(f"PETAWATCH_{name}")
        if shared is not None:
            environ.setdefault(f"{NodeSettings.prefix}{name}", shared)
    return load(NodeSettings, environ=environ, options=options, file=file)


def _read(settings: NodeSettings, bus: str | None, *, once: bool) -> None:
    """This node's GPUs."""
    one_arena()
    clock = SystemClock()
    producer = None if bus is None else open_producer(bus)
    backend = make_backend(settings.backend, clock, settings.interval_s)
    waits = settings.wait_for_driver
    if waits is None:
        waits = not (once or producer is None or sys.stderr.isatty())
    if not waits:
        backend.open()
    ticks = 1 if once else None
    if producer is None:
        # Something that is printed once is no reason to take a port.
        quiet = _without_port(settings) if once else settings
        asyncio.run(_print(backend, clock, quiet, opened=not waits, ticks=ticks))
        return
    source = AgentSource(
        backend, clock, settings, spool_path=settings.spool_path, opened=not waits, ticks=ticks
    )
    asyncio.run(_send(source, producer))
    if once and source.undelivered:
        raise click.ClickException(
            f"{source.undelivered} message(s) have not reached {bus}: see the log for the reason, and "
            "check that the broker answers and has the topics, which the pipeline makes when it "
            f"starts. What could be kept is in {settings.spool_path}, and the agent's next start "
            "sends it; --stdout prints instead."
        )


def _without_port(settings: NodeSettings) -> NodeSettings:
    import msgspec.structs  # noqa: PLC0415

    return msgspec.structs.replace(settings, metrics_port=0)


async def _print(
    backend: Backend, clock: Clock, settings: NodeSettings, *, opened: bool, ticks: int | None
) -> None:
    stop = asyncio.Event()
    write = _Lines(stop).write

    def on_record(record: NodeRecord) -> None:
        write(record_line(record, node.agent.labels()))

    receivers = Receivers(
        on_record, lambda event: write(event_line(event)),
        lambda one: write(allocation_line(one, settings.name)),
        lambda facts: write(facts_line(facts)),
    )  # fmt: skip
    node = NodeAgent(backend, clock, settings, receivers, opened=opened, ticks=ticks)
    with stop_signals(stop), release_signal(node.agent.driver.release):
        await node.run(stop)


class _Lines:
    """Standard output; who reads it may leave, and then `stop` is set."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop

    def write(self, line: bytes) -> None:
        try:
            sys.stdout.buffer.write(line + b"\n")
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            self._stop.set()
            # What is still to be said, and Python's own last flush, go nowhere.
            with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 -- a descriptor is wanted
                os.dup2(nowhere.fileno(), sys.stdout.fileno())


async def _send(source: AgentSource, producer: Producer) -> None:
    stop = asyncio.Event()

    def release() -> None:
        if source.node is not None:
            source.node.agent.driver.release()

    with stop_signals(stop), release_signal(release):
        try:
            await source.run(producer, stop)
        finally:
            await producer.stop()


@contextmanager
def release_signal(release: Callable[[], object]) -> Generator[None]:
    """Within it SIGUSR1 lets the driver go, and takes it back the next time."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, release)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGUSR1)


def _scrape(settings: NodeSettings, bus: str | None, *, once: bool, chosen: bool) -> None:
    """Exporters of other nodes."""
    extra = {"urls": "\n".join(settings.scrape)}
    if settings.scrape_targets is not None:
        extra["targets"] = str(settings.scrape_targets)
    if bus is not None:
        extra["spool"] = str(settings.spool_path)
        extra["state"] = str(settings.spool_path.with_name(f"scrape-{settings.name}.json"))
    interval_s = settings.interval_s if chosen else settings.scrape_interval_s
    options = SourceOptions(interval_s=interval_s, topic_prefix=settings.topic_prefix, extra=extra)
    try:
        source: ScrapeSource = plugins.load("petawatch.sources", "scrape")(options, SystemClock())
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error
    if bus is None:
        asyncio.run(_print_scraped(source, once=once))
    elif once:
        raise click.UsageError("Exporters are read once with --stdout only.")
    else:
        asyncio.run(_send_scraped(source, open_producer(bus)))


async def _print_scraped(source: ScrapeSource, *, once: bool) -> None:
    from collectors.scrape.fleet import Receivers as Taken  # noqa: PLC0415

    labels: dict[str, dict[int, SlotLabels]] = {}
    stop = asyncio.Event()
    write = _Lines(stop).write

    def on_record(record: NodeRecord) -> None:
        known = labels.setdefault(record.node, {})
        known.update({label.slot: label for label in record.labels})
        write(record_line(record, known))

    receivers = Taken(
        record=on_record, event=lambda event: write(event_line(event)),
        allocation=lambda one: write(allocation_line(one, one.subjects[0].node)),
        facts=lambda facts: write(facts_line(facts)),
    )  # fmt: skip
    if once:
        await source.collect_once(receivers)
        if not labels:
            raise click.ClickException("no exporter has answered with a GPU; the log says why")
        return
    with stop_signals(stop):
        await source.collect(receivers, stop)


async def _send_scraped(source: Any, producer: Producer) -> None:
    stop = asyncio.Event()
    with stop_signals(stop):
        try:
            await source.run(producer, stop)
        finally:
            await producer.stop()
