"""The agent as a source of node records."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

from collectors.agent.agent import Agent, AgentSettings
from collectors.agent.nodes import installed_node, site_of
from collectors.agent.outbox import Outbox
from collectors.agent.spool import Spool
from collectors.contract.bus import Message, Producer
from collectors.contract.inventory import Inventory
from collectors.contract.record import NodeRecord, Origin
from collectors.contract.source import Backend, SourceOptions
from collectors.contract.topics import EVENTS, GPU, Event, dumps
from collectors.contract.wire import encode
from collectors.kit import plugins
from collectors.kit.clock import Clock
from collectors.kit.lifecycle import Stage, run_stages

_DRAIN_S = 10.0
_EXTRAS = {"backend", "spool"}


class AgentSource:
    """A `Source` of the contract; the backend is open already."""

    def __init__(
        self,
        backend: Backend,
        clock: Clock,
        settings: AgentSettings,
        *,
        spool_path: Path | None = None,
        topic_prefix: str = "",
    ) -> None:
        self._backend, self._clock, self._settings = backend, clock, settings
        self._spool_path, self._prefix = spool_path, topic_prefix
        labels = [device.labels for device in backend.devices()]
        self._inventory = site_of(settings.node, [installed_node(settings.node, labels)])

    @property
    def origin(self) -> Origin:
        """As the backend says."""
        return self._backend.origin

    @property
    def inventory(self) -> Inventory:
        """The node's own GPUs, as found at the start."""
        return self._inventory

    async def run(self, producer: Producer, stop: asyncio.Event) -> None:
        """See the contract.  The producer need not answer yet: it is tried again and again."""
        spool = None
        if self._spool_path is not None:
            spool = Spool(self._spool_path, self._clock, topic_prefix=self._prefix)
            await spool.open()
        outbox = Outbox(producer, self._clock, spool=spool)
        agent = Agent(
            self._backend, self._clock, self._settings,
            lambda record: outbox.put(self._record_message(record)),
            lambda event: outbox.put(self._event_message(event)),
        )  # fmt: skip
        ended = asyncio.Event()

        async def collect(asked: asyncio.Event) -> None:
            await agent.run(asked)
            ended.set()

        async def follow() -> None:
            await stop.wait()
            ended.set()

        following = asyncio.create_task(follow())
        stages = [Stage("collect", collect), Stage("deliver", outbox.run)]
        try:
            await run_stages(stages, ended, self._clock, deadline_s=_DRAIN_S)
        finally:
            following.cancel()
            self._backend.close()
            if spool is not None:
                await spool.close()

    def _record_message(self, record: NodeRecord) -> Message:
        return Message(self._prefix + GPU, record.node.encode(), encode(record))

    def _event_message(self, event: Event) -> Message:
        return Message(self._prefix + EVENTS, event.node.encode(), dumps(event))


def open_backend(name: str, clock: Clock, interval_s: float) -> Backend:
    """A node's backend by the name of its entry point, opened.

    Raises BackendUnavailableError or MissingPartError.
    """
    backend: Backend = plugins.load("petawatch.backends", name)(clock, interval_s=interval_s)
    backend.open()
    return backend


def create(options: SourceOptions, clock: Clock) -> AgentSource:
    """The entry point `petawatch.sources: nvml`.  `extra` may name a `backend` and a `spool` file.

    Raises ValueError for options of other sources, BackendUnavailableError.
    """
    unknown = sorted(set(options.extra) - _EXTRAS)
    if unknown:
        raise ValueError(f"an agent has no {', '.join(unknown)}; it takes: backend, spool")
    if options.site is not None or options.path is not None or options.speed not in {None, 1.0}:
        raise ValueError("an agent reads this node now: leave out site, file and speed")
    backend = open_backend(options.extra.get("backend", "nvml"), clock, options.interval_s)
    settings = AgentSettings(options.node or socket.gethostname(), options.interval_s)
    spool = options.extra.get("spool")
    return AgentSource(
        backend, clock, settings,
        spool_path=None if spool is None else Path(spool), topic_prefix=options.topic_prefix,
    )  # fmt: skip
