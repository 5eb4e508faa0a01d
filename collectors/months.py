"""`petawatch month`: freezes a month by a running API, checks it, and lists what came since."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

import click

from collectors.doctor_fleet import ask, fetch, token
from collectors.usage import aligned, number

Row = Mapping[str, Any]
_LONG_S = 600.0
"""Millions of rows are added up, or a copy of thousands waits for the books' writer."""
_URL = click.option("--url", default="http://127.0.0.1:8080", show_default=True, help="The API.")
_JSON = click.option("--json", "as_json", is_flag=True, help="The API's answer as it is.")


@click.group(help="Freezes a month of the ledger, and says which are.")
def month() -> None:
    """What is signed stays as it is; what is learnt later is listed as adjustments."""


@month.command(name="list", help="The months that the ledger has.")
@_URL
@_JSON
def listing(*, url: str, as_json: bool) -> None:
    """The newest first."""
    _say(ask(url, "/api/v1/months", token()), _months, as_json=as_json)


@month.command(help="Freezes a month that is over, whole and final.")
@click.argument("name", metavar="YYYY-MM")
@click.option("--by", required=True, help="Who freezes it; stands beside what the API knows.")
@click.option("--note", default="", help="What there is to say of it.")
@_URL
@_JSON
def freeze(*, name: str, by: str, note: str, url: str, as_json: bool) -> None:
    """Nothing undoes it; where it cannot be, the API says why."""
    path = f"/api/v1/months/{quote(name, safe='')}/freeze"
    told = ask(url, path, token(), {"by": by, "note": note}, timeout_s=_LONG_S)
    _say(told, _frozen, as_json=as_json)


@month.command(help="Adds a frozen month up anew; exits with 1 where it differs.")
@click.argument("name", metavar="YYYY-MM")
@_URL
@_JSON
def check(*, name: str, url: str, as_json: bool) -> None:
    """Compares the ledger's rows with the SHA-256 that was frozen."""
    told = ask(url, f"/api/v1/months/{quote(name, safe='')}/check", token(), timeout_s=_LONG_S)
    _say(told, _checked, as_json=as_json)
    if not told["same"]:
        raise SystemExit(1)


@month.command(help="What a frozen month would be more or less by.")
@click.argument("name", metavar="YYYY-MM")
@click.option("--booked", is_flag=True, help="Of any month, what became known in this one.")
@click.option("--each", is_flag=True, help="Every hour, node and job instead of sums.")
@click.option("--csv", "as_csv", is_flag=True, help="CSV, with all figures.")
@_URL
@_JSON
def adjustments(
    *, name: str, booked: bool, each: bool, as_csv: bool, url: str, as_json: bool
) -> None:
    """To be booked in the month in which it became known."""
    query = {"booked" if booked else "month": name, **({"each": "true"} if each else {})}
    path = f"/api/v1/adjustments?{urlencode(query)}"
    if as_csv:
        click.echo(fetch(url, f"{path}&format=csv", token()), nl=False)
        return
    _say(ask(url, path, token()), _adjustments, as_json=as_json)


def _say(told: Row, text: Callable[[Row], str], *, as_json: bool) -> None:
    click.echo(json.dumps(told, ensure_ascii=False, indent=2) if as_json else text(told))


def _time(moment: str) -> str:
    return f"{moment[:16].replace('T', ' ')} UTC"


def _months(told: Row) -> str:
    rows: Sequence[Row] = told["months"]
    if not rows:
        return "The ledger has nothing yet."
    lines = [["month", "state", "since", "by", "adjustments"]]
    for row in rows:
        frozen = row["frozen"]
        if frozen is None:
            lines.append([row["month"], "final" if row["final"] else "provisional", "", "", ""])
        else:
            since = _time(frozen["time"])
            lines.append(
                [row["month"], "frozen", since, frozen["by"], number(frozen["adjustments"])]
            )
    return "\n".join(aligned(lines))


def _frozen(told: Row) -> str:
    frozen = told["frozen"]
    return (
        f"{told['month']} is frozen since {_time(frozen['time'])} by {frozen['by']}.\n"
        f"SHA-256 of its day totals: {frozen['sha256']}"
    )


def _checked(told: Row) -> str:
    signed = f"frozen {_time(told['frozen']['time'])} by {told['frozen']['by']}"
    if told["same"]:
        return f"{told['month']} is as it was {signed}: SHA-256 {told['sha256']}"
    lines = [["day", "owner", "tenant", "project", "model", "origin", "figure", "frozen", "now"]]
    for one in told["differences"]:
        if one["of"] == "copy":
            return (
                f"{told['month']} is not as it was {signed}: the copy of its day totals was"
                f" changed, SHA-256 {one['now']} instead of {one['frozen']}. Restore a backup."
            )
        names = ("day", "owner_kind", "tenant", "project", "model", "origin", "figure")
        lines.append([*(one[name] for name in names), str(one["frozen"]), str(one["now"])])
    head = f"{told['month']} is not as it was {signed}; of the ledger differ:"
    return "\n".join([head, "", *aligned(lines)])


def _adjustments(told: Row) -> str:
    rows: Sequence[Row] = told["rows"]
    what = f"of {told['month']}" if told["month"] else f"that became known in {told['booked']}"
    if not rows:
        return f"There are no adjustments {what}."
    keys = ["month", "node", "owner_kind", "tenant", "project", "job", "model", "origin", "cause",
            "known"]  # fmt: skip
    keys = [name for name in keys if name in rows[0]]
    head = [{"owner_kind": "owner"}.get(name, name) for name in keys]
    lines = [[*head, "GPU-h", "active GPU-h", "PFLOP-h", "kWh"]]
    figures = ("gpu_hours", "active_gpu_hours", "pflop_hours", "kwh")
    lines += [
        [*(str(row[name]) for name in keys), *(_signed(row[name]) for name in figures)]
        for row in rows
    ]
    return "\n".join(aligned(lines))


def _signed(value: float) -> str:
    return f"+{number(value)}" if value > 0 else number(value)
