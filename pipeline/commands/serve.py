"""`petawatch serve`: the API and the pages."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from collectors.kit.clock import SystemClock
from collectors.kit.lifecycle import run_stages, stop_signals
from collectors.kit.options import setting_options
from pipeline.api.auth import hash_password
from pipeline.commands import stages
from pipeline.commands.site import inventory_of
from pipeline.commands.wiring import Installation, install, load_settings
from pipeline.settings import Settings


@click.command(help="Answers people: API and pages.")
@setting_options(
    Settings, "site", "data", "host", "port", "bus", "store", "influx_token", "books",
    "tenants", "password_hash", "api_token", "topic_prefix",
)  # fmt: skip
@click.option(
    "--hash-password",
    "hashing",
    is_flag=True,
    help="Ask for a password, print its hash for password_hash, and end.",
)
def serve(*, config: Path | None, hashing: bool, **options: object) -> None:
    """Runs until a signal."""
    if hashing:
        _print_hash()
        return
    settings = load_settings(config, options)
    stages.check(settings)
    clock = SystemClock()
    installation = install(settings, clock, inventory_of(settings, clock), series=True, books=True)
    stages.run_until_done(run(installation))


def _print_hash() -> None:
    password: str = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    try:
        click.echo(hash_password(password))
    except ValueError as error:
        raise click.ClickException(str(error)) from error


async def run(installation: Installation) -> None:
    """Starts once its peers are there.  Raises ConfigError where a login is needed and none set."""
    stop = asyncio.Event()
    try:
        board = installation.board("serve")
        reader = installation.usage()
        app = stages.make_app(installation, board, reader)
        with stop_signals(stop):
            await installation.start_when_there(stop)
            if not stop.is_set():
                order = [
                    stages.site_stage(installation, board),
                    stages.health_stage(installation),
                    stages.serve_stage(
                        app, installation, lambda url: click.echo(f"Petawatch is at {url}")
                    ),
                ]
                await run_stages(order, stop, installation.clock)
    finally:
        await installation.close()
