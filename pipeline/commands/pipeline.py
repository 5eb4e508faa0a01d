"""`petawatch pipeline`: roles behind the bus, alone or several in a process."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from collectors.kit.clock import SystemClock
from collectors.kit.lifecycle import run_stages, stop_signals
from collectors.kit.options import setting_options
from pipeline.bus import open_bus
from pipeline.commands import stages
from pipeline.commands.site import NO_SITE, inventory_of
from pipeline.commands.wiring import (
    Installation,
    install,
    load_settings,
    make_data_folder,
    topics,
)
from pipeline.settings import Settings


@click.command(help="Runs the roles behind the bus: store, watch, books, notify.")
@setting_options(
    Settings, "site", "data", "bus", "store", "influx_token", "books", "flush_s",
    "raw_interval_s", "gpu_partitions", "topic_prefix", "tenants", "rules", "notify",
)  # fmt: skip
@click.option(
    "--role",
    "roles",
    multiple=True,
    type=click.Choice(stages.ROLES),
    help="A role to run; may be repeated.",
)
@click.option(
    "--create-topics",
    is_flag=True,
    help="Make the topics that are missing; without a role, end then.",
)
def pipeline(
    *, config: Path | None, roles: tuple[str, ...], create_topics: bool, **options: object
) -> None:
    """Runs until a signal."""
    if not roles and not create_topics:
        raise click.UsageError("name a role: --role store, watch, books or notify")
    settings = load_settings(config, options)
    if not roles:
        asyncio.run(_create_topics(settings))
        return
    clock = SystemClock()
    make_data_folder(settings)
    # Only who compares with the inventory must have one.
    needed = settings.site is not None or bool({"watch", "books", "notify"} & set(roles))
    installation = install(
        settings,
        clock,
        inventory_of(settings, clock) if needed else NO_SITE,
        series=bool({"store", "books"} & set(roles)),
        books="books" in roles,
    )
    stages.run_until_done(run(installation, roles))


async def _create_topics(settings: Settings) -> None:
    bus = open_bus(settings.bus, SystemClock())
    try:
        await bus.create_topics(topics(settings))
    finally:
        await bus.close()


async def run(installation: Installation, roles: tuple[str, ...]) -> None:
    """Starts the roles once their peers are there."""
    stop = asyncio.Event()
    try:
        with stop_signals(stop):
            await installation.start_when_there(stop)
            if not stop.is_set():
                order = stages.role_stages(installation, roles)
                beside = [
                    stages.site_stage(installation, installation.boards[0]),
                    stages.health_stage(installation),
                ]
                await run_stages([*order, *beside], stop, installation.clock)
    finally:
        await installation.close()
