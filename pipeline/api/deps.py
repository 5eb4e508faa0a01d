"""What the API reads, handed in when it is made; nothing of it is global."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, TypeVar

import numpy as np
import orjson
from fastapi import Depends, Request, Response
from numpy.typing import NDArray
from sqlalchemy import Connection

from collectors.contract.bus import Bus
from collectors.contract.inventory import Inventory
from collectors.contract.record import Origin
from collectors.contract.tenants import NO_TENANTS, Tenants
from collectors.contract.topics import Allocation
from collectors.kit.clock import Clock
from pipeline.api.alert_desk import AlertDesk
from pipeline.api.auth import Access
from pipeline.api.fleet import FleetReader
from pipeline.api.fleet_log import FleetLog
from pipeline.api.live import LiveHub
from pipeline.api.places import Places
from pipeline.api.settings import ApiSettings
from pipeline.books.acts import Outbox
from pipeline.books.claim_index import MAINTENANCE, ClaimIndex
from pipeline.books.database import BooksUnavailableError
from pipeline.health import HealthBoard
from pipeline.series.port import SeriesStore

T = TypeVar("T")
_KEEP_US = 5_000_000


class UsageReader(Protocol):
    """What the books tell."""

    async def ask(self, work: Callable[[Connection, Inventory], T]) -> T:
        """Runs reading work on one snapshot of the books, with the site as it is now.

        Raises what the work does, and BooksUnavailableError.
        """
        ...

    async def allocations(self, at_us: int) -> Sequence[Allocation]:
        """The allocations that hold at a time, in their last known version.

        Raises BooksUnavailableError, soon, where they cannot be had now.
        """
        ...


@dataclass(frozen=True, slots=True)
class ApiDeps:
    """The parts behind the API.

    `inventory` is called for the inventory as it is now.  `board` counts for
    this process.  Without `books` the routes that need them answer 503.
    """

    bus: Bus
    series: SeriesStore
    inventory: Callable[[], Inventory]
    clock: Clock
    board: HealthBoard
    books: UsageReader | None = None
    acts: Outbox | None = None
    """Where people's decisions are written; without it the routes that decide answer 503."""
    topic_prefix: str = ""
    tenants: Callable[[], Tenants] = lambda: NO_TENANTS
    """Called for the tenants file as it is now."""


class Api:
    """One API: its parts, and what it keeps of the present for a few seconds."""

    def __init__(
        self,
        deps: ApiDeps,
        settings: ApiSettings,
        hub: LiveHub,
        access: Access,
        answers: Counter[int],
    ) -> None:
        self.deps = deps
        self.settings = settings
        self.hub = hub
        self.fleet_log = FleetLog(deps.bus, deps.topic_prefix, deps.clock, deps.board)
        self.alert_desk = AlertDesk(deps.bus, deps.topic_prefix, deps.clock, deps.board)
        self.access = access
        self.answers = answers
        self.fleet = FleetReader(deps.series, deps.clock)
        self._places: Places | None = None
        self._placed_us = 0
        self._owners: list[str | None] | None = None
        self._owned: tuple[int, Places] | None = None

    def places(self) -> Places:
        """Where everything stands now; looked up again when the inventory changes, or after 5 s."""
        inventory, now_us = self.deps.inventory(), self.deps.clock.monotonic_us()
        fresh = self._places is not None and self._places.inventory is inventory
        if self._places is None or not fresh or now_us - self._placed_us > _KEEP_US:
            time_us = self.hub.now_us() or self.deps.clock.wall_us()
            self._places = Places.of(inventory, time_us)
            self._placed_us = now_us
        return self._places

    async def now_us(self) -> int:
        """Event time now: the live frame's, else the newest sample's, else the clock's."""
        now_us = self.hub.now_us()
        if now_us is None:
            now_us = await self.deps.series.latest_us()
        return self.deps.clock.wall_us() if now_us is None else now_us

    async def owners(self, places: Places) -> Sequence[str | None]:
        """Per GPU in layout order who holds it now: a tenant, `maintenance`, or None.

        From the books; without them, or while they are away, from the live frame, which names
        its first twelve tenants only.
        """
        if self.deps.books is None:
            return self._frame_owners(places)
        now_us = self.deps.clock.monotonic_us()
        known = self._owned is not None and self._owned[1] is places
        if self._owners is None or not known or now_us - (self._owned or (0,))[0] > _KEEP_US:
            try:
                self._owners = await self._booked_owners(self.deps.books, places)
            except BooksUnavailableError:
                self.deps.board.add("owners_without_books")
                self._owners = self._frame_owners(places)
            self._owned = (now_us, places)
        return self._owners

    async def _booked_owners(self, books: UsageReader, places: Places) -> list[str | None]:
        time_us = await self.now_us()
        index = ClaimIndex(
            [(n.name, s) for n in places.nodes.values() for s in n.slots], self.deps.tenants()
        )
        for allocation in await books.allocations(time_us):
            index.apply(allocation)
        names = [name or None for name in index.tenants]
        names[MAINTENANCE] = "maintenance"
        return [names[code] for code in index.owners_at(time_us).tolist()]

    def _frame_owners(self, places: Places) -> list[str | None]:
        column = self.column("tenant", places)
        if column is None or self.hub.frame is None:
            return [None] * places.gpus
        names: list[str | None] = [row["tenant"] for row in self.hub.frame.header["tenants"]]
        names += [None] * (254 - len(names)) + ["another tenant", None]
        return [names[rank] for rank in column.tolist()]

    def column(self, name: str, places: Places) -> NDArray[np.uint8] | None:
        """A column of the newest frame, None where there is none of this layout."""
        frame = self.hub.frame
        if frame is None or frame.header.get("layout") != places.inventory.layout_id:
            return None
        column = frame.columns.get(name)
        return column if column is not None and len(column) == places.gpus else None


async def api_of(request: Request) -> Api:
    """The Api of a request's application."""
    return request.app.state.api


Served = Annotated[Api, Depends(api_of)]


def origin_name(origin: int) -> str:
    """How an origin is written; `none` where nothing was seen."""
    return Origin(origin).name.lower() if origin else "none"


def json_response(body: Any) -> Response:
    """JSON of plain values and NumPy columns: NaN is null, float32 in its shortest form."""
    options = orjson.OPT_SERIALIZE_NUMPY
    return Response(orjson.dumps(body, option=options), media_type="application/json")
