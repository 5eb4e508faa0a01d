"""How a node's FLOP are found, what cannot be measured on it and why, and its agent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dash import html
from dash.development.base_component import Component

from collectors.contract.flop import FLOP_METHOD_NAMES, FlopFlag, FlopMethod
from dashboard.cards import card, table
from dashboard.tags import attributes
from dashboard.words import NONE, count, number, percent, since

Json = Mapping[str, Any]
_ESTIMATES = {FLOP_METHOD_NAMES[FlopMethod.ESTIMATE]}
_STATES = {
    "lost": "lost",
    "hung": "does not answer",
    "needs_reset": "needs a reset",
    "released": "let go on request",
}


def measuring_card(node: Json, places: Mapping[str, str]) -> Component:
    """How each GPU's FLOP are found, with coverage, and what it does not give and why."""
    agent: Json = node.get("agent") or {}
    told: list[Json] = sorted(agent.get("gpus") or (), key=_under_its_gpu)
    title = "How FLOP are found"
    if not told:
        text = "No agent has said yet how it measures here."
        return card("measuring", title, "", html.P(text, className="pw-note"))
    latest = {str(row["slot"]): row.get("values", {}) for row in _rows_of(node)}
    divided = {gpu["parent"] for gpu in told if gpu.get("parent")}
    rows = [
        _method_row(places.get(gpu["slot"], gpu["slot"]), gpu, latest.get(gpu["slot"], {}),
                    is_divided=gpu["slot"] in divided)
        for gpu in told
    ]  # fmt: skip
    methods = table(("GPU", "Method", "Coverage", "Doubts", "Why not better"), rows, ("Coverage",))
    lacks = _lacks(node, told, places)
    return card("measuring", title, "coverage since the agent's start", html.Div([methods, *lacks]))


def _under_its_gpu(gpu: Json) -> tuple[str, str]:
    return gpu.get("parent") or gpu["slot"], gpu["slot"]


def _rows_of(node: Json) -> list[Json]:
    return [*node["gpus"], *(node.get("instances") or ())]


def _method_row(place: str, gpu: Json, values: Json, *, is_divided: bool) -> Component:
    method = str(gpu["flop_method"])
    if is_divided and method == "none":
        method = "sum of its instances"
    shown: list[Any] = [method]
    if method in _ESTIMATES:
        shown.append(html.Span(" an estimate", className="nd-kind"))
    state = _STATES.get(str(gpu["state"]))
    if state is not None:
        shown = [html.Span(className="nd-mark", **attributes(data_severity="critical")), state]
    return html.Tr(
        [
            html.Th(place, scope="row", title=str(gpu["slot"])),
            html.Td(shown),
            html.Td(
                percent(values.get("gflop_measured_us"), values.get("observed_us")),
                className="pw-right",
            ),
            html.Td(_doubts(values) or NONE),
            html.Td(str(gpu["flop_reason"]) or NONE, className="nd-do"),
        ]
    )


def _doubts(values: Json) -> str:
    """The flags of the newest window in words."""
    flags = FlopFlag(int(values.get("flop_flags") or 0))
    return ", ".join(
        flag.name.replace("_", " ").lower() for flag in FlopFlag if flag in flags and flag.name
    )


def _lacks(node: Json, told: Sequence[Json], places: Mapping[str, str]) -> list[Component]:
    """A line per signal and reason, on the GPUs that lack it."""
    found: dict[tuple[str, str], list[str]] = {}
    agent: Json = node["agent"]
    missing: Mapping[str, str] = agent.get("missing") or {}
    for signal, why in missing.items():
        found[signal, why] = ["the node"]
    shared = {str(one["slot"]): one["shared"] for one in node.get("instances") or ()}
    for gpu in told:
        for signal, why in gpu["unsupported"].items():
            if signal in shared.get(str(gpu["slot"]), ()):
                continue  # it is the GPU's, and shown as such
            found.setdefault((signal, why), []).append(places.get(gpu["slot"], gpu["slot"]))
    if not found:
        return [html.P("Every signal can be had here.", className="pw-note nd-hint")]
    all_whole = {places.get(gpu["slot"], gpu["slot"]) for gpu in told if not gpu.get("parent")}
    whole = all_whole if len(all_whole) > 1 else set[str]()
    rows = [
        html.Tr(
            [
                html.Th(signal.replace("_", " "), scope="row"),
                html.Td(
                    "all" if whole and whole <= set(where) else ", ".join(where),
                    className="nd-where",
                ),
                html.Td(why, className="nd-do"),
            ]
        )
        for (signal, why), where in sorted(found.items())
    ]
    title = html.H3(f"What cannot be measured ({len(rows)})", className="pw-title nd-sub")
    return [title, table(("Signal", "GPU", "Why"), rows)]


def agent_card(node: Json) -> Component:
    """Which agent speaks for the node, and how well it keeps up."""
    agent: Json | None = node.get("agent")
    if agent is None:
        text = "No agent has said anything of itself: the node is silent, or its agent is older."
        return card("agent", "Agent", "", html.P(text, className="pw-note"))
    offset_us = agent.get("clock_offset_us")
    spooled, dropped = agent.get("spooled") or 0, agent.get("dropped") or 0
    facts = [
        ("Driver", agent.get("driver") or NONE),
        ("Agent", f"{agent['version']}, {agent['source']}, every {agent['interval_s']:g} s"),
        ("Figures are", str(agent["origin"])),
        ("Clock", NONE if offset_us is None else f"{number(offset_us / 1e3, 1)} ms from the bus's"),
        ("Waiting on its disk", count(spooled, "record")),
        ("Dropped since its start", count(dropped, "record")),
        ("Last spoke of itself", since(agent.get("age_s"))),
    ]
    rows = [html.Div([html.Dt(name), html.Dd(text)]) for name, text in facts]
    return card("agent", "Agent", "", html.Dl(rows, className="nd-facts-list"))
