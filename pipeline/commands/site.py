"""The site's files: read at the start, and again whenever they change."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from pathlib import Path

from collectors.contract.inventory import Inventory
from collectors.contract.inventory_file import load_inventory
from collectors.contract.source import SourceOptions
from collectors.contract.tenants import NO_TENANTS, Tenants
from collectors.contract.tenants_file import load_tenants
from collectors.kit.clock import Clock
from collectors.kit.config import ConfigError
from pipeline.commands.wiring import Installation, make_source
from pipeline.health import HealthBoard
from pipeline.settings import Settings

NO_SITE = Inventory("", "", "UTC", "FP16", "dense", "boost clock", ())
"""For roles that need no inventory."""
_LOOK_S = 3.0
_MOST_REASON = 300
_log = logging.getLogger(__name__)
Stamp = tuple[int, int, int] | None
"""A file's time of change (ns), size and inode; None where it is not there."""


def inventory_of(settings: Settings, clock: Clock) -> Inventory:
    """The inventory that the setting `site` names: a file, or a simulated site.

    Raises ConfigError where there is none.
    """
    if not settings.site:
        raise ConfigError(
            "setting site: write the path of your site.toml, or aisc-phase1 for a simulated centre"
        )
    path = site_file(settings)
    if path is not None:
        return load_inventory(path)
    return make_source("sim", SourceOptions(site=settings.site), clock).inventory


def site_file(settings: Settings) -> Path | None:
    """The path of `site.toml`; None for a simulated site."""
    return Path(settings.site) if settings.site and settings.site.endswith(".toml") else None


class SiteWatch:
    """Looks at the files every few seconds, and gives the installation what they say.

    A file counts once two looks find it the same, since it may be half
    written at the first.  Both are taken over together or not at all: a slip in
    either is told, and everything goes on as before it.
    """

    def __init__(
        self, installation: Installation, board: HealthBoard, *, look_s: float = _LOOK_S
    ) -> None:
        settings = installation.settings
        self._installation = installation
        self._board = board
        self._look_s = look_s
        self._files = {"site": site_file(settings), "tenants": settings.tenants}
        self._taken = self._seen = self._stamps()
        self._refused: str | None = None

    @property
    def needed(self) -> bool:
        """Whether there is a file to look at."""
        return any(path is not None for path in self._files.values())

    async def run(self, stop: asyncio.Event) -> None:
        """Looks until `stop`."""
        if not self.needed:
            await stop.wait()
        while not stop.is_set():
            await self.look()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._look_s):
                    await stop.wait()

    async def look(self) -> None:
        """Takes over what changed and is settled."""
        before, self._seen = self._seen, await asyncio.to_thread(self._stamps)
        if self._seen == self._taken or self._seen != before:
            return
        self._taken = self._seen
        try:
            inventory, tenants = await asyncio.to_thread(self._read)
        except ConfigError as error:
            self._say_refused(str(error))
            return
        self._say_refused(None)
        installation = self._installation
        # What says the same stays the same object, so that nobody begins anew for nothing.
        if inventory != installation.inventory:
            installation.inventory = inventory
            self._say_taken("site")
        if tenants != installation.tenants:
            installation.tenants = tenants
            self._say_taken("tenants")

    def _stamps(self) -> dict[str, Stamp]:
        return {name: _stamp(path) for name, path in self._files.items() if path is not None}

    def _read(self) -> tuple[Inventory, Tenants]:
        site, tenants = self._files["site"], self._files["tenants"]
        inventory = self._installation.inventory if site is None else load_inventory(site)
        return inventory, NO_TENANTS if tenants is None else load_tenants(tenants, inventory)

    def _say_taken(self, name: str) -> None:
        self._board.add("site_files_taken", 1, file=name)
        _log.info("site_file_taken file=%s path=%s", name, self._files[name])

    def _say_refused(self, reason: str | None) -> None:
        """The reason stands on the health page for as long as the files are not in order."""
        if self._refused is not None:
            self._board.remove("site_files_refused", reason=self._refused)
        self._refused = None if reason is None else reason[:_MOST_REASON]
        if self._refused is not None:
            self._board.set("site_files_refused", 1, reason=self._refused)
            _log.error("site_file_refused what was read before stays in force: %s", reason)


def _stamp(path: Path) -> Stamp:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
