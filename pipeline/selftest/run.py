"""Runs a self-test: source, workers and books on topics, buckets and files of its own."""

from __future__ import annotations

import asyncio
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from collectors.contract.source import Source, SourceOptions
from collectors.contract.tenants_file import parse_tenants
from collectors.contract.topics import ALLOC, GPU
from collectors.kit.clock import SystemClock
from pipeline.commands.wiring import Installation, ephemeral, install, make_source, topics
from pipeline.selftest import bounds, compare, sabotage
from pipeline.selftest.bounds import Bounds
from pipeline.selftest.compare import Check
from pipeline.selftest.edges import Edges
from pipeline.selftest.names import Accounts
from pipeline.selftest.physical import read_physical
from pipeline.selftest.truth import Oracle, TellingProducer, make_oracle
from pipeline.settings import Settings
from pipeline.store.worker import StoreWorker

HOUR_US = 3_600_000_000


@dataclass(frozen=True, slots=True)
class SelftestOptions:
    """What is simulated, and what is done to it."""

    site: str = "demo"
    minutes: float = 10.0
    workers: int = 1
    seed: int = 1
    sabotage: str | None = None
    faults: str = "none"
    telemetry_faults: str = "none"


class Report(msgspec.Struct, frozen=True):
    """What came out."""

    ok: bool
    bus: str
    store: str
    workers: int
    gpu_samples: int
    cpu_s: float
    wall_s: float
    checks: list[Check]
    bounds: Bounds
    """How far tenants' days are from what really happened."""


async def run_selftest(settings: Settings, options: SelftestOptions) -> Report:
    """Simulates, waits until all is written, computes the ledger, compares.

    Raises what a part raises that cannot start.
    """
    clock = SystemClock()
    began_us, cpu_s = clock.monotonic_us(), time.process_time()
    with tempfile.TemporaryDirectory(prefix="petawatch-selftest-") as folder:
        own = ephemeral(settings, Path(folder))
        # An hour ends in the middle of it, so that one is split.
        hour_us = clock.wall_us() // HOUR_US * HOUR_US
        start_us = hour_us - int(options.minutes * 30e6)
        source = make_source("sim", _simulation(own, options, start_us), clock)
        installation = install(own, clock, source.inventory, series=True, books=True)
        try:
            await installation.start()
            end_us = start_us + int(options.minutes * 60e6)
            minutes = compare.minute_range(start_us, end_us + 2_000_000)
            test = Selftest(installation, source, options, minutes)
            checks, found = await test.run(own.data)
        finally:
            await _remove(installation)
    return Report(
        all(check.ok for check in checks),
        settings.bus.partition(":")[0],
        settings.store.partition(":")[0],
        options.workers,
        int(test.gpu_samples),
        round(time.process_time() - cpu_s, 2),
        round((clock.monotonic_us() - began_us) / 1e6, 2),
        checks,
        found,
    )


def _simulation(own: Settings, options: SelftestOptions, start_us: int) -> SourceOptions:
    return SourceOptions(
        site=options.site, seed=options.seed, speed=None, minutes=options.minutes,
        start_us=start_us, topic_prefix=own.topic_prefix, truth=own.data,
        extra={
            "faults": options.faults, "telemetry_faults": options.telemetry_faults,
            # The oracle here sees what was acknowledged.
            "observable": "off",
        },
    )  # fmt: skip


async def _remove(installation: Installation) -> None:
    """Removes topics and buckets; files go with their folder."""
    names = [spec.name for spec in topics(installation.settings)]
    try:
        await installation.bus.delete_topics(names)
        await installation.opened_series().drop()
    finally:
        await installation.close()


class Selftest:
    """One run on an installation that is started and its own."""

    def __init__(
        self, installation: Installation, source: Source, options: SelftestOptions, minutes: range
    ) -> None:
        self._installation = installation
        self._source = source
        self._options = options
        self._minutes = minutes
        self._oracle: Oracle = make_oracle(source.inventory)
        self._accounts = Accounts((minutes.start + minutes.stop) // 2 * 60_000_000)
        self._edges = Edges()
        self._workers: list[StoreWorker] = [installation.worker() for _ in range(options.workers)]
        self._sent: dict[str, int] = {}

    @property
    def gpu_samples(self) -> int:
        """GPU-samples that the workers took in."""
        boards = [board for board in self._installation.boards if board.role == "store"]
        return int(sum(board.total("gpu_samples") for board in boards))

    async def run(self, truth: Path) -> tuple[list[Check], Bounds]:
        """The checks; `truth` is where the source writes down what really happened."""
        await self._flow()
        kind = self._options.sabotage
        series = self._installation.opened_series()
        nodes = sorted(self._sent)
        if kind in sabotage.BEFORE_BOOKS:
            await sabotage.damage_minutes(kind, series, self._minutes, nodes[0])
        books = self._installation.books()
        await books.finish()
        await books.close()
        if kind in sabotage.AFTER_BOOKS:
            await sabotage.swap_tenant(self._installation.opened_database())
        return await self._compare(nodes, truth)

    async def _flow(self) -> None:
        """Everything from the source into the store, committed."""
        prefix = self._installation.settings.topic_prefix
        producer = TellingProducer(
            self._installation.bus.producer(), self._oracle, prefix + GPU, prefix + ALLOC,
            self._accounts, self._edges,
        )  # fmt: skip
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for worker in self._workers:
                group.create_task(worker.run(stop))
            await producer.start()
            try:
                await self._source.run(producer, asyncio.Event())
            finally:
                await producer.stop()
            await self._drained()
            stop.set()
        self._sent = producer.sent
        self._name()

    def _name(self) -> None:
        """Both the books and the oracle read the tenants file that goes with what was sent."""
        text, inventory = self._accounts.file(), self._source.inventory
        self._installation.tenants = parse_tenants(Path("tenants.toml"), text, inventory)
        self._oracle.take_tenants(text)

    async def _drained(self) -> None:
        """Until the workers together have all partitions and have committed all of them."""
        partitions = self._installation.settings.gpu_partitions
        while True:
            behind = [await worker.behind() for worker in self._workers]
            if sum(len(one) for one in behind) == partitions and not any(
                lag for one in behind for lag in one.values()
            ):
                return
            for worker in self._workers:
                await worker.flush()
            await self._installation.clock.sleep(0.1)

    async def _compare(self, nodes: list[str], folder: Path) -> tuple[list[Check], Bounds]:
        series, inventory = self._installation.opened_series(), self._source.inventory
        stored = await compare.stored_minutes(series, nodes, self._minutes, self._edges)
        checks = compare.minute_checks(self._oracle, stored)
        truth = self._oracle.finish()
        sent = sum(self._sent.values())
        rejected = sum(truth.rejected.values())
        accounted = sum(truth.samples.values()) + truth.repeated + rejected
        checks.append(compare.same("records sent: distinct, repeated and refused", sent, accounted))
        checks += await compare.sample_checks(series, truth.samples, self._minutes)
        dead = sum(
            int(board.total("dead_letters"))
            for board in self._installation.boards
            if board.role == "store"
        )
        checks.append(compare.same("records refused", rejected, dead))
        hours = {key[0] for key in truth.rows}
        ledger = await self._installation.usage().rows(range(min(hours), max(hours) + 1))
        checks += compare.ledger_checks(truth.rows, ledger)
        installed = sum(inventory.gpus(hour * HOUR_US) * HOUR_US for hour in hours)
        checks.append(compare.installed_check(ledger, installed))
        happened = read_physical(folder)
        header = happened.header
        slack = self._edges.slack(inventory, header.start_us, header.end_us)
        found = bounds.bounds(happened, ledger, inventory, slack)
        checks.append(bounds.time_check(happened, ledger, inventory))
        outside = "tenants' days outside of what the ledger states"
        checks.append(compare.same(outside, 0, found.outside))
        return checks, found
