"""All exporters of a fleet, each asked at its own moment of the period."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from collectors.contract.facts import NodeFacts
from collectors.contract.record import NodeRecord, SlotLabels
from collectors.contract.topics import Allocation, Event
from collectors.kit.clock import Clock, EventClock
from collectors.scrape.claims import Claims
from collectors.scrape.fetch import Fetcher, FetchError
from collectors.scrape.node import ScrapedNode, Taken
from collectors.scrape.page import Page, PageReader
from collectors.scrape.settings import ScrapeSettings
from collectors.scrape.targets import Target, TargetList

_log = logging.getLogger(__name__)
_LOOPBACK = {"localhost", "localhost.localdomain", "127.0.0.1", ""}
_REPORT_US = 300_000_000
_GIVES_UP = 3
"""Failures in a row after which an exporter's name is free for another."""


def _ignore(_: object) -> None:
    """A receiver that does nothing."""


@dataclass(frozen=True, slots=True)
class Receivers:
    """Where what was found goes; each call returns at once."""

    record: Callable[[NodeRecord], object] = _ignore
    event: Callable[[Event], object] = _ignore
    allocation: Callable[[Allocation], object] = _ignore
    facts: Callable[[NodeFacts], object] = _ignore


@dataclass(slots=True)
class FleetCounts:
    """Pages by what became of them, for metrics and the log."""

    read: int = 0
    failed: int = 0
    unusable: int = 0
    """Not current by their own word, without GPUs, or of a node that another exporter has."""
    late: int = 0
    """Moments left out because the page before had not come yet."""


@dataclass(slots=True)
class _Exporter:
    target: Target
    reader: PageReader = field(default_factory=PageReader)
    node: ScrapedNode | None = None
    failures: int = 0
    told: str = ""


class Fleet:
    """Reads until told to stop.  `labels` and `targets` show what is known so far."""

    def __init__(
        self, targets: TargetList, clock: Clock, settings: ScrapeSettings, receivers: Receivers
    ) -> None:
        self._list, self._clock, self._settings = targets, clock, settings
        self._out = receivers
        self._claims = Claims(settings.state)
        self._event_clock = EventClock(clock)
        self._exporters: dict[str, _Exporter] = {}
        self._names: dict[str, _Exporter] = {}
        self.counts = FleetCounts()
        self._report_us = clock.monotonic_us() + _REPORT_US

    def labels(self) -> dict[str, tuple[Target, dict[int, SlotLabels]]]:
        """Of each node that has answered: its target, and who sits in its slots."""
        return {
            name: (exporter.target, exporter.node.labels())
            for name, exporter in self._names.items()
            if exporter.node is not None
        }

    async def once(self) -> None:
        """Asks every exporter one time."""
        async with self._fetcher() as fetcher:
            exporters = [_Exporter(target) for target in self._list.targets]
            self._exporters.update({one.target.url: one for one in exporters})
            await asyncio.gather(*(self._guarded(fetcher, one) for one in exporters))

    async def run(self, stop: asyncio.Event) -> None:
        """Asks all of them again and again until `stop`."""
        tasks: dict[Target, asyncio.Task[None]] = {}
        stopping = asyncio.create_task(stop.wait())
        async with self._fetcher() as fetcher:
            try:
                self._follow(tasks, fetcher)
                while not stop.is_set():
                    await asyncio.wait({stopping}, timeout=self._settings.reload_s)
                    if self._list.reload():
                        self._follow(tasks, fetcher)
                    self._tidy()
            finally:
                stopping.cancel()
                for task in tasks.values():
                    task.cancel()
                await asyncio.gather(*tasks.values(), return_exceptions=True)
                self._claims.save(self._clock.wall_us(), now=True)

    def _fetcher(self) -> Fetcher:
        settings = self._settings
        return Fetcher(timeout_s=settings.timeout_s, at_once=settings.at_once, ca=settings.ca)

    def _follow(self, tasks: dict[Target, asyncio.Task[None]], fetcher: Fetcher) -> None:
        """Begins with new targets, and leaves those that are gone."""
        wanted = self._list.targets
        for target in set(tasks) - set(wanted):
            tasks.pop(target).cancel()
            self._release(self._exporters.pop(target.url, None))
        for target in wanted:
            if target not in tasks:
                exporter = self._exporters.setdefault(target.url, _Exporter(target))
                tasks[target] = asyncio.create_task(self._keep_asking(fetcher, exporter))

    def _release(self, exporter: _Exporter | None) -> None:
        if exporter is None or exporter.node is None:
            return
        if self._names.get(exporter.node.name) is exporter:
            del self._names[exporter.node.name]
        exporter.node = None

    def _tidy(self) -> None:
        now_us = self._clock.wall_us()
        for allocation in self._claims.expire(now_us):
            self._out.allocation(allocation)
        self._claims.save(now_us)
        if self._clock.monotonic_us() >= self._report_us:
            self._report_us = self._clock.monotonic_us() + _REPORT_US
            away = sum(1 for exporter in self._exporters.values() if exporter.failures)
            _log.info("fleet nodes=%d away=%d pages=%s", len(self._names), away, self.counts)

    async def _keep_asking(self, fetcher: Fetcher, exporter: _Exporter) -> None:
        """At a moment that is the exporter's own, so that the fleet is spread over the period."""
        period_us = int(self._settings.interval_s * 1e6)
        digest = hashlib.blake2b(exporter.target.url.encode(), digest_size=8).digest()
        due_us = self._clock.monotonic_us() + int.from_bytes(digest, "little") % period_us
        while True:
            await self._until(due_us)
            await self._guarded(fetcher, exporter)
            now_us = self._clock.monotonic_us()
            missed = max(0, (now_us - due_us) // period_us)
            self.counts.late += missed
            due_us += (missed + 1) * period_us

    async def _until(self, due_us: int) -> None:
        await self._clock.sleep((due_us - self._clock.monotonic_us()) / 1e6)

    async def _guarded(self, fetcher: Fetcher, exporter: _Exporter) -> None:
        """One exporter's surprise must not end its reading, nor that of others."""
        try:
            await self._ask(fetcher, exporter)
            await self._probe(fetcher, exporter)
        except Exception:
            _log.exception("scrape_failed url=%s", exporter.target.shown)

    async def _ask(self, fetcher: Fetcher, exporter: _Exporter) -> None:
        page = await self._page(fetcher, exporter)
        if page is None:
            self.counts.failed += 1
            exporter.failures += 1
            if exporter.node is not None:
                exporter.node.renewals.refresh.lost()
            return
        exporter.failures = 0
        node = self._node(exporter, page)
        if node is None:
            self.counts.unusable += 1
            return
        self._pass_on(node, node.take(page, self._now_us()))

    def _pass_on(self, node: ScrapedNode, taken: Taken) -> None:
        record = taken.record
        if record is None:
            self.counts.unusable += 1
            return
        self.counts.read += 1
        self._out.record(record)
        for event in taken.events:
            self._out.event(event)
        for allocation in self._claims.update(node.name, taken.holders, record.time_us):
            self._out.allocation(allocation)
        if taken.facts is not None:
            self._out.facts(taken.facts)

    async def _page(self, fetcher: Fetcher, exporter: _Exporter) -> Page | None:
        try:
            body = await fetcher.get(exporter.target.url)
            page = exporter.reader.read(body)
        except (FetchError, ValueError) as error:
            self._tell(exporter, f"exporter_away reason={error}")
            return None
        if not page.current:
            self._tell(exporter, "exporter_not_current reason=its own collection failed")
        elif not page.gpus:
            self._tell(exporter, "exporter_empty reason=it shows no GPU")
        else:
            self._tell(exporter, "")
        return page

    def _tell(self, exporter: _Exporter, text: str) -> None:
        """Once when something begins, and once when it is over."""
        if text == exporter.told:
            return
        if text:
            _log.warning("%s url=%s", text, exporter.target.shown)
        else:
            _log.info("exporter_back url=%s", exporter.target.shown)
        exporter.told = text

    async def _probe(self, fetcher: Fetcher, exporter: _Exporter) -> None:
        """Asks once more in between, where that tells how long values live."""
        node = exporter.node
        if node is None or exporter.failures or not node.renewals.renewed:
            return
        wait_us = node.renewals.refresh.probe_us
        if wait_us is None:
            return
        await self._clock.sleep(wait_us / 1e6)
        page = await self._page(fetcher, exporter)
        if page is not None and page.current:
            node.renewals.refresh.probe(changed=node.renewals.differs(page))

    def _node(self, exporter: _Exporter, page: Page) -> ScrapedNode | None:
        """The exporter's node; None where another exporter already speaks for it."""
        target = exporter.target
        host = target.host if page.host.lower() in _LOOPBACK else page.host
        name = target.node or host
        if exporter.node is not None and exporter.node.name == name:
            return exporter.node
        holder = self._names.get(name)
        if holder is not None and holder is not exporter and holder.failures < _GIVES_UP:
            # Two exporters of one node would count each of its GPUs twice.
            self._tell(exporter, f"exporter_left_out node={name} reason={holder.target.shown} "
                       "already speaks for it; where they are two nodes, give node=NAME")  # fmt: skip
            return None
        self._release(holder)
        self._release(exporter)
        node = ScrapedNode(
            name, page.exporter, self._clock, self._settings.interval_s, target.refresh_us
        )
        exporter.node, self._names[name] = node, exporter
        return node

    def _now_us(self) -> int:
        """Event time; a step of the wall clock begins a new run on every node."""
        now_us = self._event_clock.now_us()
        if self._event_clock.stepped:
            _log.warning("clock_stepped nodes=%d", len(self._names))
            self._event_clock = EventClock(self._clock)
            for exporter in self._names.values():
                if exporter.node is not None:
                    exporter.node.new_run()
            now_us = self._event_clock.now_us()
        return now_us
