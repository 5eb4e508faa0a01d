"""Opens a bus for reading too, by URL, from where no client of one may be imported."""

from __future__ import annotations

from collections.abc import Callable

from collectors.contract.bus import Bus
from collectors.kit import plugins
from collectors.kit.clock import Clock
from collectors.kit.config import ConfigError

GROUP = "petawatch.buses"
"""Bus scheme → function of (url, clock) that opens it for reading too."""


def open_bus(url: str, clock: Clock) -> Bus:
    """The bus behind a URL, not connected yet.  Raises ConfigError, and MissingPartError where
    its client is not installed."""
    scheme = url.partition("://")[0]
    if scheme not in plugins.names(GROUP):
        known = " or ".join(f"{name}://…" for name in plugins.names(GROUP))
        raise ConfigError(f"not the address of a bus: {url!r}; write {known}")
    opens: Callable[[str, Clock], Bus] = plugins.load(GROUP, scheme)
    try:
        return opens(url, clock)
    except ValueError as error:
        raise ConfigError(str(error)) from error
