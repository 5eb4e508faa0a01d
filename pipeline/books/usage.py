"""The tenants of a period as a table: what each held, did with it, and got out of it.

Integers are sums of the ledger's; everything else is a quotient of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.books.cells import GFLOP_PER_PFLOP_HOUR, MEASURES, Cell, origin_text
from pipeline.books.rows import HOUR_US, STATES
from pipeline.books.waterfall import quotient

DEFINITION = "tenants/1"
MJ_PER_KWH = 3_600_000_000
_TENANT = "tenant"


def efficiency(measures: Mapping[str, int], nameplate: int) -> float | None:
    """Measured FLOP over the nameplate (GFLOP/s × µs) of all time held; None where FLOP were
    only estimated."""
    if measures["gflop_estimated"] and not measures["gflop_hi"]:
        return None
    return quotient(measures["gflop"] * 1_000_000, nameplate)


@dataclass(slots=True)
class Line:
    """Sums of one row of a table."""

    us: list[int] = field(default_factory=lambda: [0] * len(STATES))
    nameplate: int = 0
    """Of all time held, GFLOP/s × µs."""
    measures: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(MEASURES[len(STATES) :], 0)
    )

    def add(self, cell: Cell) -> None:
        """Adds a cell."""
        self.us = [before + more for before, more in zip(self.us, cell.us, strict=True)]
        self.nameplate += sum(cell.us) * cell.gflops_per_gpu
        for name, value in cell.measures.items():
            self.measures[name] += value

    def shown(self) -> dict[str, Any]:
        """The integers, then the quotients: ratios are None where there is nothing to divide by."""
        states = dict(zip(STATES, self.us, strict=True))
        held, seen = sum(self.us), states["active_us"] + states["idle_us"]
        return {
            "gpu_us": held,
            **states,
            **self.measures,
            "gpu_hours": held / HOUR_US,
            **{f"{name.removesuffix('_us')}_gpu_hours": us / HOUR_US for name, us in states.items()},
            **{
                f"pflop_hours{end}": self.measures[f"gflop{end}"] / GFLOP_PER_PFLOP_HOUR
                for end in ("", "_lo", "_hi", "_estimated")
            },
            "nameplate_pflop_hours": quotient(self.nameplate, GFLOP_PER_PFLOP_HOUR * 1_000_000),
            "kwh": self.measures["energy_mj"] / MJ_PER_KWH,
            "efficiency": efficiency(self.measures, self.nameplate),
            "idle_share": quotient(states["idle_us"], seen),
            "observed_share": quotient(seen, held),
        }  # fmt: skip


def _lines(cells: Iterable[Cell], key: Sequence[str]) -> dict[tuple[Any, ...], Line]:
    lines: dict[tuple[Any, ...], Line] = defaultdict(Line)
    for cell in cells:
        lines[tuple(getattr(cell, name) for name in key)].add(cell)
    return lines


def tenant_table(cells: Sequence[Cell]) -> dict[str, Any]:
    """`rows` (tenants, the one with most GPU-time first), `others` (unallocated, maintenance), and
    `totals`; each per origin, so that ranks are within one."""
    mine = [cell for cell in cells if cell.owner_kind == _TENANT]
    others = [cell for cell in cells if cell.owner_kind != _TENANT]
    lines = _lines(mine, ("origin", "tenant"))
    held: dict[int, int] = defaultdict(int)
    for (origin, _), line in lines.items():
        held[origin] += sum(line.us)
    ordered = sorted(lines.items(), key=lambda item: (item[0][0], -sum(item[1].us), item[0][1]))
    rows: list[dict[str, Any]] = []
    ranks: dict[int, int] = defaultdict(int)
    for (origin, tenant), line in ordered:
        ranks[origin] += 1
        rows.append(
            {
                "tenant": tenant,
                "origin": origin_text(origin),
                "rank": ranks[origin],
                "share": quotient(sum(line.us), held[origin]),
                **line.shown(),
            }
        )
    return {
        "rows": rows,
        "others": [
            {"owner_kind": kind, "origin": origin_text(origin), **line.shown()}
            for (origin, kind), line in sorted(_lines(others, ("origin", "owner_kind")).items())
        ],
        "totals": [
            {"origin": origin_text(origin), "tenants": ranks[origin], **line.shown()}
            for (origin,), line in sorted(_lines(cells, ("origin",)).items())
        ],
    }


def sign_off_rows(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """A row per owner, model and origin: tenants by name, then maintenance and unallocated time,
    and the total of each origin; the integers of a total are the sums of the rows above it."""
    by_origin: dict[int, list[Cell]] = defaultdict(list)
    for cell in cells:
        by_origin[cell.origin].append(cell)
    rows: list[dict[str, Any]] = []
    for origin, there in sorted(by_origin.items()):
        lines = _lines(there, ("owner_kind", "tenant", "model"))
        first_tenants = sorted(lines.items(), key=lambda item: (item[0][0] != _TENANT, item[0]))
        named = {"origin": origin_text(origin)}
        for (kind, tenant, model), line in first_tenants:
            owner = {"owner_kind": kind, "tenant": tenant, "model": model}
            rows.append({**owner, **named, **line.shown()})
        total = Line()
        for cell in there:
            total.add(cell)
        rows.append({"owner_kind": "total", "tenant": "", "model": "", **named, **total.shown()})
    return rows
