"""Below a node's charts: what happened there, its MIG instances, what its agent can measure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dash import html
from dash.development.base_component import Component

from dashboard.cards import card, table
from dashboard.node_measuring import agent_card, measuring_card
from dashboard.tags import attributes
from dashboard.words import NONE, bytes_text, count, number, percent, with_unit

Json = Mapping[str, Any]
EVENTS_SHOWN = 50
_SEVERITIES = {"critical": "Critical", "warning": "Warning", "info": "Note"}
_CONCERNS = {"tenant": "the tenant's program", "operator": "the operator"}


def details(node: Json, events: Json | str) -> list[Component]:
    """The cards; `events` is the API's answer, or a sentence why there is none."""
    places = places_of(node)
    cards = [events_card(events, places)]
    if node.get("instances"):
        cards.append(instances_card(node, places))
    cards += [measuring_card(node, places), agent_card(node)]
    return cards


def places_of(node: Json) -> dict[str, str]:
    """Slot → the GPU's number on this page, with the instance's profile after it."""
    places = {str(gpu["slot"]): str(at) for at, gpu in enumerate(node["gpus"])}
    for one in node.get("instances") or ():
        above = places.get(one["parent"], one["parent"])
        places[one["slot"]] = f"{above} · {one.get('profile') or 'instance'}"
    return places


def events_card(events: Json | str, places: Mapping[str, str]) -> Component:
    """When, on which GPU, what, what to do about it, and whose it is; newest first."""
    if isinstance(events, str):
        return card("events", "Events", "", html.P(events, className="nd-said", role="alert"))
    rows = [_event_row(event, places) for event in events["events"]]
    total = int(events["total"])
    note = f"newest {len(rows)} of {number(total)}" if total > len(rows) else count(total, "event")
    if not rows:
        return card(
            "events", "Events", "", html.P("Nothing has happened here.", className="pw-note")
        )
    return card(
        "events",
        "Events",
        note,
        table(("Time, UTC", "", "GPU", "What", "What to do", "Concerns"), rows),
    )


def _event_row(event: Json, places: Mapping[str, str]) -> Component:
    severity = str(event["severity"])
    word = _SEVERITIES.get(severity, severity)
    mark = html.Span(className="nd-mark", **attributes(data_severity=severity))
    slot = event.get("slot")
    where = NONE if slot is None else places.get(slot, slot)
    times = (
        html.Span(f" × {number(event['count'])}", className="nd-times")
        if event["count"] > 1
        else ""
    )
    what = [html.Span(_title(event)), times, html.Span(str(event["text"]), className="nd-text")]
    concerns: list[Any] = [_CONCERNS.get(str(event["concerns"]), NONE)]
    if event.get("occupant"):
        concerns.append(html.Span(str(event["occupant"]), className="nd-text"))
    return html.Tr(
        [
            html.Th(_moment(str(event["time"])), scope="row", className="nd-when"),
            html.Td([mark, word], className="nd-severity"),
            html.Td(where, title=slot or ""),
            html.Td(what, className="nd-what", title=f"seen by {event['source'] or 'its agent'}"),
            html.Td(event["advice"] or NONE, className="nd-do"),
            html.Td(concerns),
        ]
    )


def _title(event: Json) -> str:
    code = "" if event.get("code") is None else f" {event['code']}"
    kind = {"xid": "XID", "sxid": "SXid"}.get(str(event["kind"]))
    return f"{kind}{code}: {event['name']}" if kind else str(event["name"])


def _moment(text: str) -> str:
    """`24 Nov 06:00:02` of ISO 8601."""
    months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
    return f"{int(text[8:10])} {months[int(text[5:7]) - 1]} {text[11:19]}"


def instances_card(node: Json, places: Mapping[str, str]) -> Component:
    """Each divided GPU with its instances below it; what they share is said to be the GPU's."""
    rows: list[Component] = []
    above = ""
    by_slot = {str(gpu["slot"]): gpu for gpu in node["gpus"]}
    for one in node["instances"]:
        if one["parent"] != above:
            above = one["parent"]
            rows.append(_whole_row(places.get(above, above), by_slot.get(above, {})))
        rows.append(_instance_row(one))
    columns = ("GPU", "Occupant", "Tensor", "SMs", "Memory", "Power", "Temperature")
    note = (
        "Power of an instance is allocated by activity, not measured; its temperature is the GPU's."
    )
    return card("instances", "MIG instances", note, table(columns, rows, columns[2:]))


def _whole_row(place: str, gpu: Json) -> Component:
    values: Json = gpu.get("values", {})
    cells = [
        _ratio(values, "tensor_activity"),
        _ratio(values, "sm_activity"),
        _memory(values),
        with_unit(values.get("power_w"), "W"),
        with_unit(values.get("gpu_temperature_c"), "°C"),
    ]
    return html.Tr(
        [html.Th(place, scope="row"), html.Td(gpu.get("occupant") or NONE)]
        + [html.Td(text, className="pw-right") for text in cells]
    )


def _instance_row(one: Json) -> Component:
    values, shared = one["values"], one["shared"]
    allocated = with_unit(values.get("power_allocated_w"), "W")
    heat = with_unit(shared.get("gpu_temperature_c"), "°C")
    cells: list[Any] = [
        _ratio(values, "tensor_activity"),
        _ratio(values, "sm_activity"),
        _memory(values),
        allocated
        if allocated == NONE
        else [allocated, html.Span(" allocated", className="nd-kind")],
        heat if heat == NONE else [heat, html.Span(" of the GPU", className="nd-kind")],
    ]
    name = f"↳ {one.get('profile') or 'instance'}"
    return html.Tr(
        [
            html.Td(
                name, title=f"{one['slot']} {one.get('uuid') or ''}".strip(), className="nd-part"
            ),
            html.Td(one.get("occupant") or NONE),
        ]
        + [html.Td(text, className="pw-right") for text in cells]
    )


def _ratio(values: Json, name: str) -> str:
    return percent(values.get(name), 1)


def _memory(values: Json) -> str:
    used = values.get("memory_used_bytes")
    return NONE if used is None else bytes_text(used)
