"""A notice: what people are told of an incident, once per change of its state."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from collectors.contract.alerts import Incident

KINDS = ("opened", "worse", "resolved", "test")


@dataclass(frozen=True, slots=True)
class Notice:
    """An incident as it is told: `kind` is one of KINDS, `site` the centre's title.

    `base_url` is where the pages are for people, empty where that is not known;
    `maybe_repeated` that a crash may have let it go out before.
    """

    incident: Incident
    kind: str
    site: str = ""
    base_url: str = ""
    zone: str = "UTC"
    maybe_repeated: bool = False

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt at the same notice."""
        return f"{self.incident.id}/{self.incident.notice}"

    @property
    def url(self) -> str:
        """Its page; empty where the pages' address is not known."""
        return f"{self.base_url.rstrip('/')}/alerts/{self.incident.id}" if self.base_url else ""

    @property
    def runbook_url(self) -> str:
        """Its runbook's page."""
        known = self.base_url and self.incident.runbook
        return f"{self.base_url.rstrip('/')}/runbooks/{self.incident.runbook}" if known else ""

    @property
    def title(self) -> str:
        """One line."""
        mark = {"resolved": "Resolved", "test": "Test"}.get(
            self.kind, self.incident.severity.capitalize()
        )
        return f"[{mark}] {self.incident.title}"

    def text(self) -> str:
        """A few lines for a mail or a chat."""
        one = self.incident
        rows = [
            ("", one.text),
            ("Where", _where(one)),
            ("Since", self._moment(one.opened_us)),
            ("Until", self._moment(one.resolved_us)),
            ("Hits", _hits(one)),
            ("Tenants", _some(one.tenants)),
            ("Jobs", _some(one.jobs)),
            ("Thought to be", _cause(one)),
            ("Do", one.action),
            ("Runbook", self.runbook_url or one.runbook),
            ("Incident", self.url or one.id),
            ("Site", self.site),
            ("Origin", "" if one.origin == "measured" else one.origin),
            ("Key", self.idempotency_key),
        ]
        return "\n".join(f"{name}: {value}" if name else value for name, value in rows if value)

    def _moment(self, time_us: int | None) -> str:
        if time_us is None:
            return ""
        moment = datetime.fromtimestamp(time_us / 1e6, UTC).astimezone(ZoneInfo(self.zone))
        return moment.isoformat(sep=" ", timespec="seconds")

    def body(self) -> dict[str, Any]:
        """For programs: the same bytes at every attempt."""
        return {
            "version": 1,
            "key": self.idempotency_key,
            "kind": self.kind,
            "site": self.site,
            "title": self.title,
            "url": self.url,
            "runbook_url": self.runbook_url,
            "incident": msgspec.to_builtins(self.incident),
        }


def _where(one: Incident) -> str:
    place = [one.subject.hall, one.subject.rack, one.subject.node, one.subject.slot]
    known = [part for part in place if part]
    return " / ".join(known) or one.subject.name


def _hits(one: Incident) -> str:
    if not one.gpus:
        return ""
    pflops = "" if one.pflops is None else f", {one.pflops:.1f} PFLOP/s of nameplate"
    return f"{one.gpus} GPU{'s' if one.gpus != 1 else ''}{pflops}"


def _some(names: tuple[str, ...], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _cause(one: Incident) -> str:
    if not one.cause or one.confidence is None:
        return ""  # The title says it already.
    return f"{one.cause.replace('_', ' ')} ({one.confidence:.0%} sure)"
