"""Finds parts by entry point, so that no part imports one it must not know.

Groups: `petawatch.commands` (subcommand → click command), `petawatch.sources`
(backend name → source factory), `petawatch.pages` (ASGI pages for `up`),
`petawatch.oracle`.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any


class MissingPartError(LookupError):
    """The part is not installed here; the message says what to install."""


def names(group: str) -> list[str]:
    """What the group offers, in order of name."""
    return sorted({point.name for point in entry_points(group=group)})


def load(group: str, name: str) -> Any:
    """The object behind an entry point; raises MissingPartError."""
    for point in entry_points(group=group, name=name):
        try:
            return point.load()
        except ModuleNotFoundError as error:
            if error.name and error.name.partition(".")[0] in {
                "collectors",
                "pipeline",
                "dashboard",
            }:
                raise
            extra = (
                "scrape"
                if point.value.startswith("collectors.scrape")
                else point.value.partition(".")[0]
            )
            raise MissingPartError(
                f"{name} needs the package {error.name}: pip install 'petawatch[{extra}]'"
            ) from error
    raise MissingPartError(
        f"nothing called {name!r} in {group}; there is: {', '.join(names(group))}"
    )
