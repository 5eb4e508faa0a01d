"""The past of a simulated site, written into empty books hour by hour.

How far it has come stands in the books, in the same transaction as the hours,
so that a start after an end goes on where it was.  Books that have hours of
their own get none: a past never meets what was measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
from sqlalchemy import Connection

from collectors.contract.inventory import Inventory
from collectors.contract.record import Origin
from pipeline.books import journal, progress
from pipeline.books.claims import Owner
from pipeline.books.database import Database
from pipeline.books.journal import HourStamp, Models
from pipeline.books.rows import HOUR_US, I32, I64, U64, LedgerRows

_META = "simulated_past"


class PastHour(Protocol):
    """Columns of one hour's rows, as a simulator makes them; see LedgerRows."""

    @property
    def hour(self) -> int:
        """Since 1970 UTC."""
        ...

    @property
    def nodes(self) -> Sequence[str]:
        """What `node` indexes."""
        ...

    @property
    def owners(self) -> Sequence[tuple[str, str, str, str]]:
        """What `owner` indexes: kind, tenant, project, job."""
        ...

    @property
    def node(self) -> I32:
        """Of each row."""
        ...

    @property
    def slot(self) -> U64:
        """Of each row."""
        ...

    @property
    def owner(self) -> I32:
        """Of each row."""
        ...

    @property
    def figures(self) -> Mapping[str, I64]:
        """By the ledger's names."""
        ...


class Plan(msgspec.Struct, frozen=True):
    """Which hours are to be there, and up to which they are."""

    site: str
    seed: int
    first: int
    end: int
    done: int

    @property
    def complete(self) -> bool:
        """Whether all of it is written."""
        return self.done >= self.end


def read_plan(connection: Connection) -> Plan | None:
    """The plan in the books, if there is one."""
    text = progress.read_meta(connection, _META)
    return None if text is None else msgspec.json.decode(text, type=Plan)


def wanted(connection: Connection, site: str, seed: int, hours: range) -> Plan | None:
    """What is to be written: what an earlier start left undone, or `hours` of empty books; None
    where there is nothing to do."""
    plan = read_plan(connection)
    if plan is not None:
        return None if plan.complete or plan.site != site else plan
    if progress.ledger_hours(connection) or not hours:
        return None
    return Plan(site, seed, hours.start, hours.stop, hours.start)


@dataclass(frozen=True, slots=True)
class PastWriter:
    """Writes hours into the books."""

    database: Database
    inventory: Inventory

    async def write(self, plan: Plan, hours: Iterable[PastHour]) -> None:
        """All hours that are not there yet; `hours` begin at the plan's first.

        Raises BooksUnavailableError; what was written by then stays.
        """
        models, zone = Models(self.inventory), ZoneInfo(self.inventory.time_zone)
        for past in hours:
            if past.hour < plan.done:
                continue
            plan = msgspec.structs.replace(plan, done=past.hour + 1)
            rows, told = _rows(past), plan

            def work(one: Connection, rows: LedgerRows = rows, plan: Plan = told) -> None:
                end_us = plan.done * HOUR_US
                stamp = HourStamp(end_us, end_us, end_us)
                journal.keep_totals(one, self.inventory)
                hour = range(plan.done - 1, plan.done)
                journal.replace_hours(one, rows, hour, stamp, models, zone)
                progress.write_meta(one, _META, msgspec.json.encode(plan).decode())

            await self.database.write(work)


def _rows(past: PastHour) -> LedgerRows:
    count = len(past.node)
    return LedgerRows(
        past.nodes, tuple(Owner(*owner) for owner in past.owners),
        np.full(count, past.hour, np.int64), past.node, past.slot, past.owner,
        np.full(count, int(Origin.SIMULATED), np.uint8), past.figures,
    )  # fmt: skip
