"""What of an incident's place is drawn, and from when to when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from dashboard.api_client import ApiClient, ApiError
from dashboard.evidence import MARGIN, METRICS, evidence_figure

_BEFORE = timedelta(minutes=20)
_AFTER = timedelta(minutes=5)
_LONGEST = timedelta(hours=6)
_RAW = timedelta(hours=1)
Json = Mapping[str, Any]


def subject_of_chart(incident: Json) -> tuple[str, str | None] | None:
    """(node, slot) of what is drawn: the first member that is a GPU or a node; None without one."""
    members: Sequence[Json] = incident.get("members") or []
    places: list[Json] = [*(one["subject"] for one in members), incident["subject"]]
    gpus = [one for one in places if one.get("node") and one.get("slot")]
    nodes = [one for one in places if one.get("node")]
    if gpus:
        return gpus[0]["node"], gpus[0]["slot"]
    return (nodes[0]["node"], None) if nodes else None


async def evidence(api: ApiClient, incident: Json) -> tuple[dict[str, Any], str]:
    """The chart's figure and what it is of.  Raises ApiError."""
    place = subject_of_chart(incident) or await _any_node(api, incident)
    node, slot = place
    opened = datetime.fromisoformat(incident["opened"])
    ended = incident.get("resolved")
    last = datetime.fromisoformat(ended) + _AFTER if ended else opened + _LONGEST
    newest = datetime.fromisoformat(str((await api.get("/live")).get("time") or last.isoformat()))
    end = min(last, newest, opened + _LONGEST)
    start = opened - _BEFORE
    window = _iso(start), _iso(max(end, opened + timedelta(minutes=1)))
    span = datetime.fromisoformat(window[1]) - start
    answer = await api.series(node, METRICS, *window, "raw" if span <= _RAW else "auto")
    if not any(one["time_us"] for one in answer["series"]):
        answer = await api.series(node, METRICS, *window)  # samples have gone, minutes are kept
    slots: list[str] = [one["slot"] for one in answer["series"] if one["time_us"]]
    if not slots:
        raise ApiError(f"There are no samples of {node} from that time.")
    chosen = slot if slot is not None and slot in slots else slots[0]
    ended_us = incident.get("resolved_us")
    figure = evidence_figure(answer, chosen, incident["opened_us"], ended_us, window)
    return figure, _caption(answer, node, chosen, slot)


def _caption(answer: Json, node: str, chosen: str, wanted: str | None) -> str:
    """Which GPU is drawn; what is missing, and that it is another than the one meant, is said."""
    told = {one["metric"] for one in answer["series"] if one["slot"] == chosen and one["time_us"]}
    parts = [f"{node} / {chosen}"]
    if wanted not in (None, chosen):
        parts.append(f"a neighbour: there are no samples of {wanted}")
    if MARGIN not in told:
        parts.append("no margin is told")
    return ", ".join(parts)


async def _any_node(api: ApiClient, incident: Json) -> tuple[str, None]:
    """A node of the rack or hall that an incident is about."""
    subject = incident["subject"]
    for node in await api.nodes():
        same_rack = subject.get("rack") in {None, "", node.get("rack")}
        if subject.get("hall") == node.get("hall") and same_rack:
            return str(node["node"]), None
    raise ApiError("This incident has no place whose samples could be shown.")


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
