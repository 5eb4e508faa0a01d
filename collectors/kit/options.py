"""Command-line options made from a struct of settings, so that no command repeats one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from collectors.kit.config import SettingsStruct, describe

F = TypeVar("F", bound=Callable[..., Any])


def setting_options(kind: type[SettingsStruct], *names: str) -> Callable[[F], F]:
    """Decorates a click command with `--config` and an option for each named setting.

    They reach the function as keywords, None where not given: pass `config` as
    `file` and the rest as `options` to `collectors.kit.config.load`, which
    checks them.  A secret is offered as `--x-file` only, since a command line
    is there for all to read.  Raises ValueError for a name that is no setting.
    """
    settings = {item.name: item for item in describe(kind)}
    unknown = set(names) - set(settings)
    if unknown:
        raise ValueError(f"no such setting: {', '.join(sorted(unknown))}")

    def decorate(function: F) -> F:
        for name in reversed(names):
            item = settings[name]
            flag = "--" + name.replace("_", "-")
            if item.secret:
                option = click.option(f"{flag}-file", metavar="FILE", help=item.text)
            elif item.type is bool:
                option = click.option(f"{flag}/--no-{flag[2:]}", default=None, help=item.text)
            else:
                option = click.option(flag, metavar="VALUE", help=_help(item.text, item.default))
            function = option(function)
        return click.option(
            "--config",
            type=click.Path(path_type=Path, dir_okay=False),
            help=f"Settings file; else {kind.prefix}CONFIG, else {_place(kind.file)}.",
        )(function)

    return decorate


def _place(file: str) -> str:
    return file if file.startswith("/") else f"./{file}"


def _help(text: str, default: object) -> str:
    return text if default is None else f"{text} [{default}]"


def parse_speed(_: click.Context, __: click.Parameter, value: str) -> float | None:
    """Times real time; None for `max`.  Raises click.BadParameter."""
    text = value.strip().lower()
    if text == "max":
        return None
    try:
        speed = float(text.removesuffix("x").removesuffix("×"))
    except ValueError:
        speed = -1.0
    if not 0 < speed < 1e9:
        raise click.BadParameter(f"write a number above 0, or max, not {value!r}")
    return speed
