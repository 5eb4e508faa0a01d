"""`petawatch usage`: asks a running API who used what, and prints it as a table."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

import click

from collectors.doctor_fleet import ask, fetch, token

Row = Mapping[str, Any]
_HOUR_US = 3_600_000_000
_GFLOP_PER_PFLOP_HOUR = 3_600_000_000
_MJ_PER_KWH = 3_600_000_000
_KEYS = ("month", "day", "hour_us", "owner_kind", "tenant", "project", "job", "model", "node",
         "slot", "hall", "origin")  # fmt: skip
_WORDS = {"hour_us": "hour", "owner_kind": "owner"}


@click.command(help="Says who used what, out of the ledger.")
@click.option("--month", metavar="YYYY-MM", help="A month of the site's time zone.")
@click.option("--day", metavar="YYYY-MM-DD", help="A day of it.")
@click.option("--from", "from_", metavar="TIME", help="With --to: ISO-8601, or seconds since 1970.")
@click.option("--to", metavar="TIME")
@click.option("--by", help="Names with commas between: tenant, project, job, model, node; with "
              "--waterfall one of site, hall, model, tenant.")  # fmt: skip
@click.option("--resolution", type=click.Choice(["total", "month", "day", "hour"]))
@click.option("--tenant", multiple=True, help="Only of this tenant; may be given several times.")
@click.option("--waterfall", is_flag=True, help="From installed down to delivered.")
@click.option("--jobs", is_flag=True, help="The jobs that held most.")
@click.option("--json", "as_json", is_flag=True, help="The API's answer as it is.")
@click.option("--csv", "as_csv", is_flag=True, help="CSV; of a month alone the table to be signed.")
@click.option("--url", default="http://127.0.0.1:8080", show_default=True, help="The API.")
def usage(
    *,
    by: str | None,
    tenant: tuple[str, ...],
    waterfall: bool,
    jobs: bool,
    as_json: bool,
    as_csv: bool,
    url: str,
    **given: str | None,
) -> None:
    """Without --by, --waterfall and --jobs it lists the tenants."""
    if waterfall and (jobs or as_csv or tenant):
        raise click.UsageError("--waterfall goes with neither --jobs, --csv nor --tenant")
    if as_csv and as_json:
        raise click.UsageError("write one of --csv and --json")
    query = [(name.rstrip("_"), value) for name, value in given.items() if value is not None]
    if not any(name in {"month", "day", "from", "to"} for name, _ in query):
        raise click.UsageError("write --month 2026-10, or --day 2026-10-03, or --from and --to")
    query += [("tenant", name) for name in tenant]
    query += [("by", name.strip()) for name in (by or "").split(",") if name.strip()]
    path, show = _which(query, waterfall=waterfall, jobs=jobs, as_csv=as_csv)
    if as_csv:
        query += [] if path.endswith(".csv") else [("format", "csv")]
        click.echo(fetch(url, f"{path}?{urlencode(query)}", token()), nl=False)
        return
    told = ask(url, f"{path}?{urlencode(query)}", token())
    click.echo(json.dumps(told, ensure_ascii=False, indent=2) if as_json else text(told, show))


def _which(
    query: Sequence[tuple[str, str]], *, waterfall: bool, jobs: bool, as_csv: bool
) -> tuple[str, Callable[[Any], list[list[str]]]]:
    """The path to ask, and how its rows are shown."""
    names = {name for name, _ in query}
    if waterfall:
        return "/api/v1/usage/waterfall", waterfall_lines
    if jobs:
        return "/api/v1/usage/efficiency", job_lines
    if names & {"by", "resolution", "tenant"}:
        return "/api/v1/usage", sum_lines
    if as_csv and "month" in names:
        return "/api/v1/usage/monthly.csv", sum_lines
    return "/api/v1/usage/tenants", tenant_lines


def text(told: Row, show: Callable[[Any], list[list[str]]]) -> str:
    """The answer for people: what it is of, then an aligned table."""
    status = "final" if told["final"] else f"PROVISIONAL, as of {_time(told['as_of'])}"
    if told.get("frozen"):
        status = _frozen(told)
    named = told["period"] or f"{_time(told['from'])} to {_time(told['to'])}"
    if not told["rows"]:
        return f"{named} ({told['time_zone']}): the ledger has nothing of it"
    return "\n".join([f"{named} ({told['time_zone']}), {status}", "", *aligned(show(told))])


def _frozen(told: Row) -> str:
    """By whom and when, and where what has been learnt since is listed."""
    frozen, many = told["frozen"], told["frozen"]["adjustments"]
    words = f"frozen {_time(frozen['time'])} by {frozen['by']}"
    return f"{words}; since then: petawatch month adjustments {told['period']}" if many else words


def _time(moment: str | None) -> str:
    return "nothing" if moment is None else f"{moment[:16].replace('T', ' ')} UTC"


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Columns, numbers to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    numbers = [_is_number(column[1:]) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(line, widths, numbers, strict=True)
        ).rstrip()
        for line in lines
    ]


def _is_number(cells: Sequence[str]) -> bool:
    return all(cell[:1].isdigit() or cell[:1] in {"-", "–", "+", ""} for cell in cells)


def number(value: float | None) -> str:
    """A figure with three digits or more; – where it is not known."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def percent(value: float | None) -> str:
    """A ratio in percent."""
    return "–" if value is None else f"{100 * value:.1f}"


_FIGURES = ("GPU-h", "active %", "PFLOP-h", "low", "high", "kWh", "of nameplate %", "idle %")


def _figures(row: Row) -> list[str]:
    seen = row["active_us"] + row["idle_us"]
    return [
        number(row["gpu_hours"]), percent(row["active_us"] / seen if seen else None),
        number(row["pflop_hours"]), number(row["pflop_hours_lo"]), number(row["pflop_hours_hi"]),
        number(row["kwh"]), percent(row["efficiency"]), percent(row["idle_share"]),
    ]  # fmt: skip


def tenant_lines(told: Row) -> list[list[str]]:
    """The tenants, then what nobody held, then all together."""
    lines = [["rank", "tenant", "origin", *_FIGURES]]
    lines += [
        [str(row["rank"]), row["tenant"], row["origin"], *_figures(row)] for row in told["rows"]
    ]
    lines += [["", row["owner_kind"], row["origin"], *_figures(row)] for row in told["others"]]
    lines += [["", "in all", row["origin"], *_figures(row)] for row in told["totals"]]
    return lines


def sum_lines(told: Row) -> list[list[str]]:
    """Sums by whatever was asked for, and per origin all of them together."""
    rows: Sequence[Row] = told["rows"]
    keys = [name for name in _KEYS if name in rows[0]]
    zone = ZoneInfo(told["time_zone"])
    head = [_WORDS.get(name, name) for name in keys]
    lines = [[*head, "GPU-h", "active", "idle", "down", "unobserved", "PFLOP-h", "kWh"]]
    lines += [[*(_key(name, row[name], zone) for name in keys), *_sums([row])] for row in rows]
    for origin in sorted({row["origin"] for row in rows}):
        of_it = [row for row in rows if row["origin"] == origin]
        named = ["in all", *[""] * (len(keys) - 2), origin]
        lines.append([*named, *_sums(of_it)])
    return lines


def _key(name: str, value: Any, zone: ZoneInfo) -> str:
    if name != "hour_us":
        return str(value)
    # With the offset: where a clock goes back, two hours have the same name.
    return datetime.fromtimestamp(value // 1_000_000, zone).strftime("%Y-%m-%d %H:%M%z")


def _sums(rows: Sequence[Row]) -> list[str]:
    states = ("gpu_us", "active_us", "idle_us", "down_us", "unobserved_us")
    hours = [number(sum(row[name] for row in rows) / _HOUR_US) for name in states]
    pflop = sum(row["gflop"] for row in rows) / _GFLOP_PER_PFLOP_HOUR
    return [*hours, number(pflop), number(sum(row["energy_mj"] for row in rows) / _MJ_PER_KWH)]


def job_lines(told: Row) -> list[list[str]]:
    """The jobs."""
    lines = [["tenant", "project", "job", "origin", "GPU-h", "active %", "PFLOP-h",
              "of nameplate %", "kWh", "idle %", "waste"]]  # fmt: skip
    for row in told["rows"]:
        figures = [
            number(row["gpu_hours"]), percent(row["activity"]), number(row["pflop_hours"]),
            percent(row["efficiency"]), number(row["kwh"]), percent(row["idle_share"]),
        ]  # fmt: skip
        names = [row[name] for name in ("tenant", "project", "job", "origin")]
        lines.append([*names, *figures, row["waste"] or ""])
    return lines


def waterfall_lines(told: Row) -> list[list[str]]:
    """Each waterfall as steps with what lies between them."""
    keys = [name for name in _KEYS if name in told["rows"][0]]
    head = [_WORDS.get(name, name) for name in keys]
    zone = ZoneInfo(told["time_zone"])
    lines = [[*head, "", "GPU-h", "PFLOP-h", "PFLOP/s", "of installed %"]]
    for row in told["rows"]:
        named = [_key(name, row[name], zone) for name in keys]
        for step in row["steps"]:
            lines.append([*named, step["name"], *_amount(step)])
            between = [drop for drop in row["drops"] if drop["from"] == step["name"]]
            lines += [[*named, f"  − {drop['name']}", *_amount(drop)] for drop in between]
    return lines


def _amount(one: Row) -> list[str]:
    return [
        number(one["gpu_hours"]), number(one["pflop_hours"]), number(one["pflops"]),
        percent(one["share"]),
    ]  # fmt: skip
