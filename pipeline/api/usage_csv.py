"""Usage as CSV: integers as they are, quotients beside them, names that no spreadsheet runs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastapi import Response

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
SIGN_OFF = (
    "owner_kind", "tenant", "model", "origin", "gpu_hours", "active_gpu_hours", "idle_gpu_hours",
    "down_gpu_hours", "unobserved_gpu_hours", "pflop_hours", "pflop_hours_lo", "pflop_hours_hi",
    "pflop_hours_estimated", "nameplate_pflop_hours", "efficiency", "kwh", "gpu_us", "active_us",
    "idle_us", "down_us", "unobserved_us", "gflop", "gflop_lo", "gflop_hi", "gflop_estimated",
    "energy_mj",
)  # fmt: skip
"""Columns of the monthly table, in order."""
_DECIMALS = 6


def cell(value: Any) -> str:
    """A value as a cell: a text that a spreadsheet would take for a formula gets a ' before it."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.{_DECIMALS}f}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return cell(" ".join(str(one) for one in value))  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    text = str(value)
    if isinstance(value, str) and text.startswith(_FORMULA):
        return f"'{text}"
    return text


def table(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> list[list[str]]:
    """Names, then rows."""
    return [list(columns), *([cell(row.get(name)) for name in columns] for row in rows)]


def csv_response(lines: Iterable[Sequence[str]], name: str) -> Response:
    """A file to be saved."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerows(lines)
    return Response(
        out.getvalue().encode(),
        media_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}.csv"'},
    )


def sign_off(head: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> list[list[str]]:
    """The monthly table: what it is, an empty line, then columns and rows."""
    return [*([key, cell(value)] for key, value in head.items()), [], *table(SIGN_OFF, rows)]
