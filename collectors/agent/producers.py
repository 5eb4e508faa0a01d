"""Opens the bus of a URL for sending alone, without what only a consumer needs."""

from __future__ import annotations

from collectors.contract.bus import Producer
from collectors.kit import plugins
from collectors.kit.config import ConfigError

GROUP = "petawatch.producers"


def open_producer(url: str) -> Producer:
    """A producer that is not started yet; its first `send` connects.

    Raises ConfigError for an address that nothing here can open.
    """
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in plugins.names(GROUP):
        known = " or ".join(f"{name}://…" for name in plugins.names(GROUP))
        raise ConfigError(f"not the address of a bus: {url!r}; write {known}")
    try:
        producer: Producer = plugins.load(GROUP, scheme)(url)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return producer
