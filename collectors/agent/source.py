"""The agent as a source of node records."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from collectors.agent.node_agent import NodeAgent, Receivers
from collectors.agent.nodes import installed_node, site_of
from collectors.agent.outbox import Outbox
from collectors.agent.own_metrics import outbox_families
from collectors.agent.settings import NodeSettings
from collectors.agent.spool import Spool
from collectors.contract.bus import Message, Producer
from collectors.contract.inventory import Inventory
from collectors.contract.record import Origin
from collectors.contract.source import Backend, SourceOptions
from collectors.contract.topics import ALLOC, EVENTS, FACTS, GPU, dumps
from collectors.contract.wire import encode
from collectors.kit import plugins
from collectors.kit.clock import Clock
from collectors.kit.config import load
from collectors.kit.lifecycle import Stage, run_stages

_DRAIN_S = 10.0
_EXTRAS = {"backend", "spool"}


class AgentSource:
    """A `Source` of the contract.  `opened` says whether the backend is open already; else it is
    tried until it is.  Without `spool_path` what the bus cannot take waits in memory alone."""

    def __init__(
        self,
        backend: Backend,
        clock: Clock,
        settings: NodeSettings,
        *,
        spool_path: Path | None = None,
        opened: bool = True,
        ticks: int | None = None,
    ) -> None:
        self._backend, self._clock, self._settings = backend, clock, settings
        self._spool_path, self._opened, self._ticks = spool_path, opened, ticks
        labels = [device.labels for device in backend.devices()] if opened else []
        self._inventory = site_of(settings.name, [installed_node(settings.name, labels)])
        self.node: NodeAgent | None = None
        """The agent, while it runs."""
        self.undelivered = 0
        """Messages of the last run that have not reached the bus."""

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
        settings, spool = self._settings, None
        if self._spool_path is not None:
            spool = Spool(
                self._spool_path, self._clock, topic_prefix=settings.topic_prefix,
                most_bytes=settings.spool_mb * 2**20,
            )  # fmt: skip
            await spool.open()
        outbox = Outbox(producer, self._clock, spool=spool, spool_rate=settings.spool_rate)
        node = self.node = self._node_agent(outbox)
        ended = asyncio.Event()

        async def collect(asked: asyncio.Event) -> None:
            try:
                await node.run(asked)
            finally:
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
            self.undelivered = outbox.counts.undelivered(outbox.queued + outbox.progress().left)
            if spool is not None:
                await spool.close()

    def _node_agent(self, outbox: Outbox) -> NodeAgent:
        settings = self._settings

        def waiting() -> tuple[int, int]:
            progress = outbox.progress()
            return progress.left, progress.dropped

        return NodeAgent(
            self._backend, self._clock, settings, _sending(outbox, settings.topic_prefix),
            opened=self._opened, ticks=self._ticks, state=settings.spool_path.parent,
            waiting=waiting, more=lambda: outbox_families(outbox),
        )  # fmt: skip


def _sending(outbox: Outbox, prefix: str) -> Receivers:
    def put(topic: str, key: bytes, value: bytes) -> None:
        outbox.put(Message(prefix + topic, key, value))

    return Receivers(
        record=lambda record: put(GPU, record.node.encode(), encode(record)),
        event=lambda event: put(EVENTS, event.node.encode(), dumps(event)),
        allocation=lambda allocation: put(ALLOC, allocation.key, dumps(allocation)),
        facts=lambda facts: put(FACTS, facts.key, dumps(facts)),
    )


def make_backend(name: str, clock: Clock, interval_s: float) -> Backend:
    """A node's backend by the name of its entry point, not opened yet.  Raises MissingPartError."""
    backend: Backend = plugins.load("petawatch.backends", name)(clock, interval_s=interval_s)
    return backend


def create(options: SourceOptions, clock: Clock) -> AgentSource:
    """The entry point `petawatch.sources: nvml`.  `extra` may name a `backend` and a `spool` file;
    the rest is as the agent's own settings say, without its metrics.

    Raises ValueError for options of other sources, BackendUnavailableError.
    """
    unknown = sorted(set(options.extra) - _EXTRAS)
    if unknown:
        raise ValueError(f"an agent has no {', '.join(unknown)}; it takes: backend, spool")
    if options.site is not None or options.path is not None or options.speed not in {None, 1.0}:
        raise ValueError("an agent reads this node now: leave out site, file and speed")
    given: dict[str, object] = {
        "backend": options.extra.get("backend", "nvml"), "node": options.node,
        "interval_s": options.interval_s, "topic_prefix": options.topic_prefix, "metrics_port": 0,
    }  # fmt: skip
    settings = load(NodeSettings, environ=os.environ, options=given)
    backend = make_backend(settings.backend, clock, settings.interval_s)
    backend.open()
    spool = options.extra.get("spool")
    return AgentSource(backend, clock, settings, spool_path=None if spool is None else Path(spool))
