"""By which version of the site's files the books work now."""

from __future__ import annotations

import operator
from collections.abc import Callable

from sqlalchemy import Connection

from collectors.contract.inventory import Inventory
from collectors.contract.tenants import Tenants
from collectors.kit.clock import Clock
from pipeline.books import journal
from pipeline.books.leader import Leader
from pipeline.books.site_files import SiteFiles, adopt


class SiteNow:
    """Takes over what the files say once the database has it, so that no hour is computed by a
    version that nobody could look up."""

    def __init__(
        self,
        inventory: Callable[[], Inventory],
        tenants: Callable[[], Tenants],
        leader: Leader,
        clock: Clock,
        topic: str,
    ) -> None:
        """`topic` is where the tenants file's own claims go."""
        self._inventory, self._tenants = inventory, tenants
        self._leader = leader
        self._clock = clock
        self._topic = topic
        self.files = SiteFiles(inventory(), tenants())
        self._adopted: SiteFiles | None = None

    async def adopt(self, *, anew: bool = False) -> int | None:
        """Works by the files as they are now from here on; returns the earliest hour that this
        changes.  `anew` looks at the database even where they are as before.  Raises
        BooksUnavailableError: then all is as it was.
        """
        files, before = SiteFiles(self._inventory(), self._tenants()), self._adopted
        if before is not None and not anew and all(map(operator.is_, files, before)):
            return None
        at_us = self._clock.wall_us()

        def write(connection: Connection) -> int | None:
            journal.keep_totals(connection, files.inventory)
            return adopt(connection, files, at_us, self._topic)

        earliest = await self._leader.write(write)
        self.files = self._adopted = files
        return earliest
