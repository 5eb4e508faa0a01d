"""Makes parts from settings; every subcommand takes what it needs of them."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from collectors.contract.bus import Bus, BusUnavailableError
from collectors.contract.inventory import Inventory
from collectors.contract.source import Source, SourceOptions
from collectors.contract.tenants import NO_TENANTS, Tenants
from collectors.contract.tenants_file import load_tenants
from collectors.contract.topics import topic_specs
from collectors.kit import config, plugins
from collectors.kit.clock import Clock
from collectors.kit.config import ConfigError
from pipeline.books.acts import Outbox
from pipeline.books.alert_history import AlertKeeper
from pipeline.books.database import BooksUnavailableError, Database
from pipeline.books.queries import BooksReader
from pipeline.books.role import Books, BooksSettings
from pipeline.bus import open_bus
from pipeline.health import HealthBoard
from pipeline.notify.outlet import NotifyOptions
from pipeline.notify.role import Notifier
from pipeline.notify.targets import Secrets, load_targets
from pipeline.series import open_series
from pipeline.series.port import SeriesStore, StoreUnavailableError
from pipeline.settings import Settings
from pipeline.store.validate import TimeRules
from pipeline.store.worker import StoreOptions, StoreWorker
from pipeline.watch.alerts.follow import AlertOptions
from pipeline.watch.alerts.role import AlertWatch
from pipeline.watch.alerts.rules_file import load_rules
from pipeline.watch.alerts.thermal import ThermalPhysics
from pipeline.watch.incidents import Incidents
from pipeline.watch.role import Watch, WatchOptions

SOURCES = "petawatch.sources"
PEERS_AWAY = (BusUnavailableError, StoreUnavailableError, BooksUnavailableError)
_log = logging.getLogger(__name__)
_GB = 1_000_000_000
_EMBEDDED_BUS_SHARE = 0.4
"""Of the embedded disk budget; the rest is the series store's."""


def load_settings(file: Path | None, options: Mapping[str, object]) -> Settings:
    """The settings that hold for this process.  Raises ConfigError."""
    return config.load(Settings, environ=os.environ, options=options, file=file)


def make_data_folder(settings: Settings) -> None:
    """Makes the folder of what the embedded parts keep, for this user alone.  Raises ConfigError."""
    folder = settings.data
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(
            f"data: the folder {folder} cannot be made ({reason}); name another"
        ) from error


def make_source(name: str, options: SourceOptions, clock: Clock) -> Source:
    """A source by name.  Raises ConfigError for options that it cannot serve."""
    factory: Callable[[SourceOptions, Clock], Source] = plugins.load(SOURCES, name)
    try:
        return factory(options, clock)
    except ValueError as error:
        raise ConfigError(str(error)) from error


@dataclass
class Installation:
    """The parts of one process, made from its settings; nothing is connected yet.

    `inventory` and `tenants` are what the site's files say now.
    """

    settings: Settings
    clock: Clock
    inventory: Inventory
    bus: Bus
    series: SeriesStore | None = None
    database: Database | None = None
    tenants: Tenants = NO_TENANTS
    boards: list[HealthBoard] = field(default_factory=list[HealthBoard])

    def board(self, role: str) -> HealthBoard:
        """A new board of a role; the API shows it once it is published."""
        board = HealthBoard(role, f"{os.getpid()}-{len(self.boards)}", self.clock)
        self.boards.append(board)
        return board

    async def start(self) -> None:
        """Makes the topics and opens the stores.  Raises what they raise."""
        await self.bus.create_topics(topics(self.settings))
        if self.series is not None:
            await self.series.start()
        if self.database is not None:
            await self.database.start()

    async def start_when_there(self, stop: asyncio.Event) -> None:
        """`start`, tried again until the peers are there or `stop` is set."""
        for attempt in itertools.count(1):
            if stop.is_set():
                return
            try:
                await self.start()
            except PEERS_AWAY as error:
                _log.warning("peer_away attempt=%d %s", attempt, error)
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(10.0, 0.5 * attempt)):
                        await stop.wait()
            else:
                return

    async def close(self) -> None:
        """Closes what is open."""
        if self.series is not None:
            await self.series.close()
        if self.database is not None:
            await self.database.close()
        await self.bus.close()

    def rules(self) -> TimeRules:
        """Which event times count."""
        settings = self.settings
        return TimeRules(int(settings.future_s * 1e6), int(settings.ancient_h * 3.6e9))

    def opened_series(self) -> SeriesStore:
        """The series store.  Raises ConfigError where the process was made without."""
        if self.series is None:
            raise ConfigError("this role needs a series store: set store")
        return self.series

    def opened_database(self) -> Database:
        """The books' database.  Raises ConfigError where the process was made without."""
        if self.database is None:
            raise ConfigError("this role needs the books: set books")
        return self.database

    def worker(self) -> StoreWorker:
        """A `store`."""
        gpus = sum(len(node.slots) for node in self.inventory.nodes)
        options = StoreOptions(
            prefix=self.settings.topic_prefix,
            flush_s=self.settings.flush_s,
            raw_interval_s=self.settings.raw_interval_for(gpus),
            rules=self.rules(),
        )
        return StoreWorker(self.bus, self.opened_series(), options, self.clock, self.board("store"))

    def watch(self) -> Watch:
        """The `watch`."""
        options = WatchOptions(
            prefix=self.settings.topic_prefix,
            show_estimates=self.settings.show_estimates,
            rules=self.rules(),
        )
        return Watch(
            self.bus, lambda: self.inventory, options, self.clock, self.board("watch"),
            lambda: self.tenants,
        )  # fmt: skip

    def alerts(self) -> AlertWatch:
        """The alerts beside the `watch`.  Raises ConfigError for rules that cannot be."""
        options = AlertOptions(
            rules=load_rules(self.settings.rules),
            prefix=self.settings.topic_prefix,
            time_rules=self.rules(),
            physics=ThermalPhysics,
            folding=lambda saved: Incidents.restored(saved) if saved else Incidents(),
            tenants=lambda: self.tenants,
        )
        board = self.board("alerts")
        return AlertWatch(self.bus, lambda: self.inventory, options, self.clock, board)

    def usage(self) -> BooksReader:
        """What the books tell."""
        return BooksReader(self.opened_database(), lambda: self.inventory)

    def alert_keeper(self) -> AlertKeeper:
        """The copy of what was alerted, which runs beside the `books`."""
        return AlertKeeper(
            self.bus, self.opened_database(), self.settings.topic_prefix, self.clock,
            self.board("alerts"),
        )  # fmt: skip

    def notifier(self) -> Notifier:
        """The `notify`.  Raises ConfigError without a file of targets, or with a wrong one."""
        if self.settings.notify is None:
            raise ConfigError(
                "setting notify: write the path of a file of targets, see docs/notifications.md"
            )
        options = NotifyOptions(self.settings.topic_prefix, self.settings.public_url)
        return Notifier(
            self.bus, lambda: self.inventory, load_targets(self.settings.notify),
            Secrets(os.environ), options, self.clock, self.board("notify"),
        )  # fmt: skip

    def roles(self, roles: Sequence[str]) -> list[str]:
        """Of some roles those that can run as things are set: `notify` needs its targets."""
        return [one for one in roles if one != "notify" or self.settings.notify is not None]

    def acts(self, board: HealthBoard) -> Outbox:
        """Where people's decisions are written."""
        return Outbox(self.opened_database(), self.bus, self.clock, board)

    def books(self) -> Books:
        """The `books`."""
        settings = BooksSettings(
            prefix=self.settings.topic_prefix,
            interval_s=self.settings.books_interval_s,
            lateness_s=self.settings.lateness_s,
            minutes_days=self.settings.minutes_days,
        )
        return Books(
            self.bus, self.opened_series(), lambda: self.inventory, self.opened_database(),
            settings, self.clock, self.board("books"), lambda: self.tenants,
        )  # fmt: skip


def topics(settings: Settings) -> list[Any]:
    """The topics' specifications; an embedded bus keeps within its share of the disk budget."""
    size = settings.bus_retention_mb * 2**20
    if settings.bus.startswith("sqlite:"):
        share = settings.disk_budget_gb * _GB * _EMBEDDED_BUS_SHARE
        size = min(size, int(share / settings.gpu_partitions))
    return topic_specs(
        settings.topic_prefix,
        gpu_partitions=settings.gpu_partitions,
        retention_h=settings.bus_retention_h,
        retention_bytes=size,
    )


def install(
    settings: Settings, clock: Clock, inventory: Inventory, *, series: bool, books: bool
) -> Installation:
    """The parts that the settings name.  Raises ConfigError for addresses that cannot be."""
    try:
        bus = open_bus(settings.bus, clock, session_timeout_s=settings.kafka_session_timeout_s)
        store = _series(settings) if series else None
        database = Database(settings.books) if books else None
    except ValueError as error:
        raise ConfigError(str(error)) from error
    # A role that needs no site needs no tenants either.
    named = settings.tenants if inventory.nodes else None
    tenants = NO_TENANTS if named is None else load_tenants(named, inventory)
    return Installation(settings, clock, inventory, bus, store, database, tenants)


def _series(settings: Settings) -> SeriesStore:
    options: dict[str, Any] = {"token": settings.influx_token}
    if settings.store.startswith("duckdb:"):
        share = settings.disk_budget_gb * _GB * (1 - _EMBEDDED_BUS_SHARE)
        options["budget_bytes"] = int(share)
    else:
        options["raw_days"] = max(1, round(settings.raw_keep_days))
        options["minute_days"] = max(1, round(settings.minutes_days))
        if settings.topic_prefix:
            options["prefix"] = f"petawatch_{settings.topic_prefix}"
    return open_series(settings.store, **options)


def ephemeral(settings: Settings, data: Path) -> Settings:
    """The same installation with topics, buckets and files of its own, for a self-test.

    Embedded files go below `data`; on services a random prefix keeps apart.
    """
    changes: dict[str, Any] = {
        "data": data,
        "topic_prefix": f"selftest-{secrets.token_hex(4)}-",
        "books": f"sqlite:///{data}/books.db",
        "tenants": None,
    }
    if settings.bus.startswith("sqlite:"):
        changes["bus"] = f"sqlite:///{data}/bus.db"
    if settings.store.startswith("duckdb:"):
        changes["store"] = f"duckdb:///{data}/series.duckdb"
    return msgspec.structs.replace(settings, **changes)
