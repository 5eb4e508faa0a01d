"""Parts of the Usage page as pure functions of the API's JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from dash import html
from dash.development.base_component import Component

from dashboard.tags import attributes
from dashboard.words import NONE, count, number, with_unit

Json = Mapping[str, Any]
STEPS = {
    "installed": "Installed",
    "reporting": "Reporting",
    "allocated": "Allocated",
    "active": "Active",
    "delivered": "Delivered",
}
DROPS = {
    "down": "down",
    "unobserved": "not observed",
    "maintenance": "in maintenance",
    "unallocated": "held by nobody",
    "idle": "held, and idle",
    "estimated": "estimated only",
    "below_nameplate": "below nameplate while active",
    "down_while_allocated": "down while allocated",
    "unobserved_while_allocated": "not observed while allocated",
}
_AFTER = {
    "installed": ("down", "unobserved"),
    "reporting": ("maintenance", "unallocated"),
    "allocated": ("idle",),
    "active": ("estimated", "below_nameplate"),
}


def share(value: float | None, decimals: int = 1) -> str:
    """A ratio as a percentage; absent is a dash."""
    return NONE if value is None else with_unit(100 * value, "%", decimals)


def _tile(title: str, figure: str, note: str) -> Component:
    return html.Section(
        [
            html.H2(title, className="pw-title"),
            html.P(figure, className="al-figure"),
            html.P(note, className="pw-note"),
        ],
        className="pw-card al-tile",
    )


def tiles(row: Json) -> Component:
    """What management asks first."""
    steps = {step["name"]: step for step in row["steps"]}
    delivered, active = steps["delivered"], steps["active"]
    published = row["bridge"][0]
    low, high = row["delivered"]["pflop_hours_lo"], row["delivered"]["pflop_hours_hi"]
    kwh = row["energy_mj"] / 3.6e9
    per_kwh = delivered["pflop_hours"] / (kwh / 1e3) if kwh else None
    parts = (
        ("Delivered", with_unit(delivered["pflops"], "PFLOPS", 1), "mean over the ledger's hours"),
        ("PFLOP-hours", number(delivered["pflop_hours"]), f"{number(low)} to {number(high)}"),
        ("Of nameplate", share(delivered["share"]), f"published: {share(published['share_gpu_hours'])} of GPU-hours"),
        ("Active GPU-hours", number(active["gpu_hours"]), f"of {number(steps['installed']['gpu_hours'])} installed"),
        ("Energy", with_unit(kwh / 1e3, "MWh", 1), f"{number(per_kwh, 1)} PFLOP-hours per MWh"),
    )  # fmt: skip
    return html.Div(
        [html.P(_origin(row), className="us-origin"), *(_tile(*part) for part in parts)],
        className="al-tiles us-tiles",
    )


def _origin(row: Json) -> str:
    origin = row["origin"]
    return "" if origin == "measured" else f"{origin} data".capitalize()


def waterfall(row: Json) -> Component:
    """Five bars, each part of the one above, and between them every drop by name."""
    drops = {drop["name"]: drop for drop in row["drops"]}
    rows: list[Component] = []
    for step in row["steps"]:
        rows.append(_bar(STEPS[step["name"]], step, "us-step", 0.0))
        ends = step["share"] or 0.0
        for name in _AFTER.get(step["name"], ()):
            drop = drops[name]
            # A drop hangs where the step above ends, and the next begins where it does.
            ends -= drop["share"] or 0.0
            if drop["pflop_hours"]:
                rows.append(_bar(DROPS[name], drop, "us-drop", ends))
    head = [("", ""), ("", ""), ("PFLOPS", "pw-right"), ("of nameplate", "pw-right"), ("GPU-hours", "pw-right")]  # fmt: skip
    cells = [html.Th(title, scope="col", className=side) for title, side in head]
    table = html.Table(
        [html.Thead(html.Tr(cells)), html.Tbody(rows)], className="pw-table us-falls"
    )
    return html.Section(
        [
            html.Div(
                [
                    html.H2("Capacity waterfall", className="pw-title"),
                    html.Span("Each step is part of the one above.", className="pw-note"),
                ],
                className="pw-card-head",
            ),
            html.Div(table, className="pw-table-box"),
        ],
        className="pw-card nd-card",
    )


def _bar(title: str, figures: Json, kind: str, starts: float) -> Component:
    part = max(0.0, min(1.0, figures["share"] or 0.0))
    place = {"width": f"{100 * part:.3f}%", "marginLeft": f"{100 * max(0.0, starts):.3f}%"}
    fill = html.Div(className="us-fill", style=place, **attributes(data_name=figures["name"]))
    minus = "" if kind == "us-step" else "− "
    return html.Tr(
        [
            html.Th(f"{minus}{title}", scope="row"),
            html.Td(html.Div(fill, className="us-track"), className="us-bar"),
            html.Td(number(figures["pflops"], 1), className="pw-right"),
            html.Td(share(figures["share"]), className="pw-right"),
            html.Td(number(figures["gpu_hours"]), className="pw-right"),
        ],
        className=kind,
    )


def bridge(row: Json) -> Component:
    """From the kind of utilisation that is usually published to what was delivered."""
    # What is published counts GPUs as alike; here each weighs what it could deliver.
    published = share(row["bridge"][0]["share_gpu_hours"])
    names = {
        "published": f"Published: allocated of installed, {published} of GPU-hours",
        **STEPS,
        **DROPS,
    }
    lines = [
        html.Div(
            [
                html.Dt(names[step["name"]] if step["kind"] == "level" else f"− {names[step['name']]}"),
                html.Dd(share(step["share"])),
            ],
            className="us-level" if step["kind"] == "level" else "us-minus",
        )
        for step in row["bridge"]
        if step["kind"] == "level" or step["share"]
    ]  # fmt: skip
    loose = row["active_unallocated"]["gpu_hours"]
    note = (
        f"Besides, GPUs that nobody held were active for {number(loose)} GPU-hours."
        if loose
        else ""
    )
    return html.Section(
        [
            html.Div(
                [
                    html.H2("From published to delivered", className="pw-title"),
                    html.Span("of installed nameplate", className="pw-note"),
                ],
                className="pw-card-head",
            ),
            html.Dl(lines, className="nd-facts-list"),
            html.P(note, className="pw-note"),
        ],
        className="pw-card nd-card",
    )


_TENANT_COLUMNS = (
    "", "Tenant", "GPU-hours", "Share", "Active", "Idle", "PFLOP-hours", "Efficiency", "Idle share",
    "kWh",
)  # fmt: skip


def _tenant_row(row: Json, rank: str, name: str) -> Component:
    bounds = f"{number(row['pflop_hours_lo'], 1)} to {number(row['pflop_hours_hi'], 1)}"
    figures = (
        (number(row["gpu_hours"]), ""),
        (share(row.get("share")), ""),
        (number(row["active_gpu_hours"]), ""),
        (number(row["idle_gpu_hours"]), ""),
        (number(row["pflop_hours"], 1), bounds),
        (share(row["efficiency"]), "measured FLOP of the nameplate of all time held"),
        (share(row["idle_share"]), ""),
        (number(row["kwh"]), ""),
    )
    return html.Tr(
        [
            html.Td(rank, className="us-rank"),
            html.Th(name, scope="row"),
            *(html.Td(text, title=more, className="pw-right") for text, more in figures),
        ]
    )


def tenants_table(answer: Json) -> Component:
    """All tenants, the one with most GPU-time first; then time that is nobody's, and the sum."""
    rows: Sequence[Json] = answer["rows"]
    body = [_tenant_row(row, number(row["rank"]), row["tenant"]) for row in rows]
    body += [_tenant_row(row, "", row["owner_kind"]) for row in answer["others"]]
    foot = [_tenant_row(row, "", f"All ({row['origin']})") for row in answer["totals"]]
    head = [
        html.Th(title, scope="col", className="pw-right" if at > 1 else "")
        for at, title in enumerate(_TENANT_COLUMNS)
    ]
    table = html.Table(
        [html.Thead(html.Tr(head)), html.Tbody(body), html.Tfoot(foot)],
        className="pw-table us-tenants",
    )
    return html.Section(
        [
            html.Div(
                [
                    html.H2("Tenants", className="pw-title"),
                    html.Span(count(len(rows), "tenant"), className="pw-note"),
                ],
                className="pw-card-head",
            ),
            html.Div(table, className="pw-table-box us-scroll"),
        ],
        className="pw-card nd-card us-card",
    )


def jobs_table(answer: Json) -> Component:
    """The jobs that held GPUs and left them idle, the most GPU-hours first."""
    rows: Sequence[Json] = answer["rows"]
    if not rows:
        text = "No job of an hour or more left its GPUs idle for 95 % of the time."
        return jobs_card(text)
    zone = ZoneInfo(answer["time_zone"])
    columns = ("Job", "Tenant", "Project", "Held", "Idle", "Activity", "Efficiency", "kWh", "From")
    head = [
        html.Th(title, scope="col", className="pw-right" if 2 < at < 8 else "")
        for at, title in enumerate(columns)
    ]
    body = [html.Tr(_job_cells(row, zone)) for row in rows]
    table = html.Table([html.Thead(html.Tr(head)), html.Tbody(body)], className="pw-table")
    shown = f"the first {len(rows)} of {number(answer['total'])}"
    return jobs_card(html.Div(table, className="pw-table-box"), shown)


def jobs_card(inside: Component | str, shown: str = "") -> Component:
    """The frame of the jobs' table, or of a sentence in its stead."""
    return html.Section(
        [
            html.Div(
                [
                    html.H2("Held and idle: ask these tenants first", className="pw-title"),
                    html.Span(shown, className="pw-note"),
                ],
                className="pw-card-head",
            ),
            html.P(inside, className="pw-note", role="status")
            if isinstance(inside, str)
            else inside,
        ],
        className="pw-card nd-card us-card",
    )


def _job_cells(row: Json, zone: ZoneInfo) -> list[Component]:
    began = datetime.fromtimestamp(row["first_hour_us"] / 1e6, zone)
    figures = (
        with_unit(row["gpu_hours"], "GPU-h", 1),
        with_unit(row["idle_gpu_hours"], "GPU-h", 1),
        share(row["activity"]),
        share(row["efficiency"]),
        number(row["kwh"], 1),
    )
    return [
        html.Th(row["job"] or "(no job)", scope="row"),
        html.Td(row["tenant"]),
        html.Td(row["project"] or NONE),
        *(html.Td(text, className="pw-right") for text in figures),
        html.Td(f"{began:%d %b %H:%M}"),
    ]
