"""`petawatch serve`: the API and the pages."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from collectors.kit.clock import SystemClock
from collectors.kit.config import ConfigError
from collectors.kit.lifecycle import run_stages, stop_signals
from collectors.kit.options import setting_options
from pipeline.commands import stages
from pipeline.commands.wiring import Installation, install, inventory_of, load_settings
from pipeline.settings import Settings


@click.command(help="Answers people: API and pages.")
@setting_options(
    Settings, "site", "data", "host", "port", "bus", "store", "influx_token", "books",
    "password_hash", "api_token", "topic_prefix",
)  # fmt: skip
def serve(*, config: Path | None, **options: object) -> None:
    """Runs until a signal."""
    settings = load_settings(config, options)
    clock = SystemClock()
    installation = install(settings, clock, inventory_of(settings, clock), series=True, books=True)
    stages.run_until_done(run(installation))


async def run(installation: Installation) -> None:
    """Starts once its peers are there.  Raises ConfigError where a login is needed and none set."""
    stop = asyncio.Event()
    try:
        board = installation.board("serve")
        reader = installation.usage()
        try:
            app = stages.make_app(installation, board, reader)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        with stop_signals(stop):
            await installation.start_when_there(stop)
            if not stop.is_set():
                order = [
                    stages.health_stage(installation),
                    stages.serve_stage(
                        app, installation, lambda url: click.echo(f"Petawatch is at {url}")
                    ),
                ]
                await run_stages(order, stop, installation.clock)
    finally:
        await installation.close()
