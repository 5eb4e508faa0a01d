"""`petawatch notify-test`: a test message, straight to the targets, without bus or roles."""

from __future__ import annotations

import asyncio
import getpass
import os
import secrets
import sys
from pathlib import Path

import click

from collectors.contract.alerts import Incident
from collectors.kit.clock import SystemClock
from collectors.kit.config import ConfigError
from collectors.kit.options import setting_options
from pipeline.commands.wiring import load_settings
from pipeline.notify.errors import TargetRefusedError, TargetUnavailableError
from pipeline.notify.notice import Notice
from pipeline.notify.outlet import test_incident
from pipeline.notify.senders import make_sender
from pipeline.notify.targets import AnyTarget, Secrets, load_targets
from pipeline.settings import Settings


@click.command(name="notify-test", help="Sends a test message to those who are told of incidents.")
@setting_options(Settings, "notify", "public_url")
@click.argument("names", nargs=-1, metavar="[TARGET]...")
def notify_test(*, config: Path | None, names: tuple[str, ...], **options: object) -> None:
    """Exits with 1 where a target did not take it; commands are run only where they are named."""
    settings = load_settings(config, options)
    if settings.notify is None:
        raise ConfigError("setting notify: write the path of a file of targets")
    targets = load_targets(settings.notify)
    known = [target.name for target in targets]
    for name in names:
        if name not in known:
            raise ConfigError(f"no target is called {name!r}; there is: {', '.join(known)}")
    chosen = [one for one in targets if any(one.tested(name) for name in names or ("",))]
    for target in targets:
        if not names and target not in chosen:
            click.echo(f"{target.name}: a command, not run; name it to run it")
    clock = SystemClock()
    incident = test_incident(secrets.token_hex(4), clock.wall_us(), _who())
    failed = asyncio.run(_send(chosen, incident, settings.public_url))
    sys.exit(1 if failed else 0)


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user often has no name
        return f"user {os.getuid()}"


async def _send(targets: list[AnyTarget], incident: Incident, base_url: str) -> int:
    failed = 0
    for target in targets:
        sender = make_sender(target, Secrets(os.environ), SystemClock())
        try:
            await sender.send(Notice(incident, "test", "Petawatch", base_url))
        except (TargetUnavailableError, TargetRefusedError) as error:
            failed += 1
            click.echo(f"{target.name}: {error}", err=True)
        else:
            click.echo(f"{target.name}: taken")
        finally:
            await sender.close()
    return failed
