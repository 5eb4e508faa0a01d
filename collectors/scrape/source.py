"""A fleet's exporters as a source of node records."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import msgspec

from collectors.agent.nodes import installed_node, site_of
from collectors.agent.outbox import Outbox
from collectors.agent.spool import Spool
from collectors.contract.bus import Message, Producer
from collectors.contract.inventory import InstalledNode, Inventory
from collectors.contract.record import Origin, SlotLabels
from collectors.contract.source import BackendUnavailableError, SourceOptions
from collectors.contract.topics import ALLOC, EVENTS, FACTS, GPU, dumps
from collectors.contract.wire import encode
from collectors.kit.clock import Clock
from collectors.kit.lifecycle import Stage, run_stages
from collectors.scrape.fleet import Fleet, Receivers
from collectors.scrape.settings import ScrapeSettings
from collectors.scrape.targets import Target, TargetList

_DRAIN_S = 10.0
_EXTRAS = ("urls", "targets", "interval", "timeout", "ca", "spool", "state")


class ScrapeSource:
    """A `Source` of the contract: one record per node and period, published on its behalf.

    `collect` hands what is found to receivers instead, for printing.
    """

    def __init__(self, targets: TargetList, clock: Clock, settings: ScrapeSettings) -> None:
        self._targets, self._clock, self.settings = targets, clock, settings
        self._inventory: Inventory | None = None

    @property
    def origin(self) -> Origin:
        """Measured: by the exporters."""
        return Origin.MEASURED

    @property
    def inventory(self) -> Inventory:
        """What answers now.  Asked for the first time, it reads every exporter once and waits.

        Raises BackendUnavailableError where none answers.
        """
        if self._inventory is None:
            # A loop may be running in this thread.
            with ThreadPoolExecutor(1, thread_name_prefix="discover") as executor:
                self._inventory = executor.submit(asyncio.run, self.discover()).result()
        return self._inventory

    async def discover(self) -> Inventory:
        """One look at all exporters, of which nothing is published."""
        settings = replace(self.settings, state=None, spool=None)
        fleet = Fleet(self._targets, self._clock, settings, Receivers())
        await fleet.once()
        nodes = [
            _placed(name, target, labels)
            for name, (target, labels) in sorted(fleet.labels().items())
        ]
        if not nodes:
            raise BackendUnavailableError(
                f"None of {len(self._targets.targets)} exporters shows a GPU, the first being "
                f"{self._targets.targets[0].shown}; the log says why."
            )
        return site_of("exporters", nodes)

    async def run(self, producer: Producer, stop: asyncio.Event) -> None:
        """See the contract.  The producer need not answer yet: it is tried again and again."""
        prefix, spool = self.settings.topic_prefix, None
        if self.settings.spool is not None:
            spool = Spool(self.settings.spool, self._clock, topic_prefix=prefix)
            await spool.open()
        outbox = Outbox(producer, self._clock, spool=spool)
        stages = [
            Stage("scrape", lambda asked: self.collect(_publishing(outbox, prefix), asked)),
            Stage("deliver", outbox.run),
        ]
        try:
            await run_stages(stages, stop, self._clock, deadline_s=_DRAIN_S)
        finally:
            if spool is not None:
                await spool.close()

    async def collect(self, receivers: Receivers, stop: asyncio.Event) -> None:
        """Reads until `stop`."""
        await Fleet(self._targets, self._clock, self.settings, receivers).run(stop)

    async def collect_once(self, receivers: Receivers) -> None:
        """Reads every exporter one time."""
        await Fleet(self._targets, self._clock, self.settings, receivers).once()


def _publishing(outbox: Outbox, prefix: str) -> Receivers:
    def put(topic: str, key: bytes, value: bytes) -> None:
        outbox.put(Message(prefix + topic, key, value))

    return Receivers(
        record=lambda record: put(GPU, record.node.encode(), encode(record)),
        event=lambda event: put(EVENTS, event.node.encode(), dumps(event)),
        allocation=lambda claim: put(ALLOC, claim.key, dumps(claim)),
        facts=lambda facts: put(FACTS, facts.key, msgspec.json.encode(facts)),
    )


def _placed(name: str, target: Target, labels: Mapping[int, SlotLabels]) -> InstalledNode:
    node = installed_node(name, list(labels.values()), target.hall or "Exporters")
    return replace(node, rack=target.rack) if target.rack else node


def create(options: SourceOptions, clock: Clock) -> ScrapeSource:
    """The entry point `petawatch.sources: scrape`.

    `extra` holds `urls`, one a line, or `targets`, the name of a file of them;
    and may hold `interval` (seconds, before `interval_s`) and `timeout`, `ca`
    (a file of authorities), `spool` and `state` (files).  `path` is a file of
    targets as well.  Raises ValueError, OSError.
    """
    extra = options.extra
    unknown = sorted(set(extra) - set(_EXTRAS))
    if unknown:
        raise ValueError(f"exporters have no {unknown[0]}; there is: {', '.join(_EXTRAS)}")
    if options.site is not None or options.truth is not None or options.speed not in {None, 1.0}:
        raise ValueError("exporters show what is now: leave out site, truth and speed")
    named = extra.get("targets")
    path = options.path if named is None else Path(named)
    interval_s = float(extra.get("interval", options.interval_s))
    settings = ScrapeSettings(
        interval_s, float(extra.get("timeout", min(10.0, interval_s))),
        ca=_path(extra, "ca"), spool=_path(extra, "spool"), state=_path(extra, "state"),
        topic_prefix=options.topic_prefix,
    )  # fmt: skip
    return ScrapeSource(TargetList(extra.get("urls", "").split(), path), clock, settings)


def _path(extra: Mapping[str, str], name: str) -> Path | None:
    return Path(extra[name]) if extra.get(name) else None
