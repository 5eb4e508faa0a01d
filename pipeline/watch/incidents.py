"""Alerts folded into incidents: one place, one family, the same minutes, one cause.

A function of the transitions and of event time alone, so that the same log
makes the same incidents, with the same ids, revisions and notices.

- An alert joins the open incident of its family whose place holds its own.
- One whose place is wider than that of an open incident of the last `RECENT_US`
  takes that incident over, and ends others that it holds; an older one stays, as
  a GPU that has been hot for a week does not become the rack's fault of today.
- One beside an incident (the same node, the same rack, or racks of one hall)
  within `STORM_US` joins it where the family is one of the building's; one that
  hits the same job joins it whatever the family.  The incident then has the
  narrowest place that holds both.
- People are told of it (`notice`) `GATHER_US` after it opens or becomes graver, at
  once where an alert speaks of a whole rack or more; where alerts side by side
  make it wider, not sooner than `WIDER_US` after the last word.
- It is resolved when no member fires for `SETTLE_US`.

Alerts of severity `info` make no incident.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import msgspec

from collectors.contract.alerts import SCOPES, SEVERITIES, Alert, Incident, Member, Subject
from pipeline.watch.incident_places import common, holds, path_of, united, widest, width

GATHER_US = 1_000_000
SETTLE_US = 30_000_000
STORM_US = 120_000_000
RECENT_US = 600_000_000
WIDER_US = 60_000_000
MOST_MEMBERS = 100
_RACK = SCOPES.index("rack")
_MOST_ALERTS = 20_000
"""Of one incident's alerts kept; what is beyond is a member by number alone."""
_OF_THE_BUILDING = frozenset(("thermal", "power", "lost"))


class _Open(msgspec.Struct):
    """An incident that is not over.  `told` is the (severity, width) that people know of."""

    id: str
    family: str
    subject: Subject
    opened_us: int
    joined_us: int
    alerts: dict[str, Alert]
    """The last firing transition of each member."""
    firing: set[str]
    jobs: set[str]
    resolved_us: dict[str, int] = {}
    members: int = 0
    severity: int = 0
    told: tuple[int, int] = (-1, -1)
    told_us: int = 0
    due_us: int | None = None
    quiet_us: int | None = None
    revision: int = 0
    notice: int = 0
    changed_us: int = 0
    changed: bool = True
    merged_into: str = ""

    @property
    def rank(self) -> tuple[int, int]:
        """How grave and how wide it is."""
        return self.severity, width(self.subject)


class Incidents:
    """The incidents of one log; `take` once per evaluated second."""

    def __init__(self) -> None:
        self._open: dict[str, _Open] = {}
        self._of: dict[str, str] = {}
        """Incident by fingerprint of those that fire."""

    @classmethod
    def restored(cls, data: bytes) -> Incidents:
        """As they were when saved.  Raises msgspec.ValidationError for anything else."""
        made = cls()
        for one in msgspec.msgpack.decode(data, type=list[_Open]):
            made._open[one.id] = one
            made._of.update(dict.fromkeys(one.firing, one.id))
        return made

    def save(self) -> bytes:
        """Everything that `restored` needs."""
        return msgspec.msgpack.encode(list(self._open.values()))

    @property
    def open_count(self) -> int:
        """Incidents that are not over."""
        return len(self._open)

    def take(self, alerts: Sequence[Alert], time_us: int) -> tuple[list[Alert], list[Incident]]:
        """Transitions of one second with their incident filled in, and the incidents that changed."""
        named = [self._take(alert, time_us) for alert in alerts]
        return named, self._pass(time_us)

    def _take(self, alert: Alert, time_us: int) -> Alert:
        known = self._of.get(alert.fingerprint)
        if alert.state == "resolved" and known is not None:
            self._resolve(self._open[known], alert, time_us)
        elif alert.state == "firing" and alert.severity != "info":
            known = known or self._home(alert, time_us).id
            self._join(self._open[known], alert, time_us)
        return msgspec.structs.replace(alert, incident=known) if known else alert

    def _home(self, alert: Alert, time_us: int) -> _Open:
        """The incident that an alert joins, opened where there is none."""
        path = path_of(alert.subject)
        mine = [one for one in self._open.values() if one.family == alert.family]
        for one in mine:
            if holds(path_of(one.subject), path):
                return one
        inside = [
            one for one in mine
            if holds(path, path_of(one.subject)) and time_us - one.joined_us <= RECENT_US
        ]  # fmt: skip
        if inside:
            for other in inside[1:]:
                self._merge(other, inside[0], time_us)
            inside[0].subject = alert.subject
            return inside[0]
        for one in mine:
            place = common(one.subject, alert.subject)
            if time_us - one.joined_us <= STORM_US and _together(one, alert, place):
                # Without a place that holds both (one job in two halls) the first one's stays.
                one.subject = place or one.subject
                return one
        return self._begin(alert, time_us)

    def _begin(self, alert: Alert, time_us: int) -> _Open:
        key = f"{alert.fingerprint}\x00{alert.at_us}".encode()
        name = hashlib.sha256(key).hexdigest()[:16]
        one = _Open(name, alert.family, alert.subject, alert.at_us, time_us, {}, set(), set())
        self._open[name] = one
        return one

    def _join(self, one: _Open, alert: Alert, time_us: int) -> None:
        if alert.fingerprint not in one.alerts:
            one.members += 1
            one.joined_us = time_us
        if alert.fingerprint in one.alerts or len(one.alerts) < _MOST_ALERTS:
            one.alerts[alert.fingerprint] = alert
        one.firing.add(alert.fingerprint)
        one.jobs.update(alert.jobs)
        one.resolved_us.pop(alert.fingerprint, None)
        self._of[alert.fingerprint] = one.id
        one.severity = max(one.severity, SEVERITIES.index(alert.severity))
        one.quiet_us = None
        one.changed = True
        due_us = _due_us(one, alert, time_us)
        if due_us is not None:
            one.due_us = due_us if one.due_us is None else min(due_us, one.due_us)

    def _resolve(self, one: _Open, alert: Alert, time_us: int) -> None:
        one.firing.discard(alert.fingerprint)
        one.resolved_us[alert.fingerprint] = alert.at_us
        self._of.pop(alert.fingerprint, None)
        one.changed = True
        if not one.firing:
            one.quiet_us = time_us

    def _merge(self, one: _Open, into: _Open, time_us: int) -> None:
        """Its members go over; it is over itself."""
        for fingerprint in one.firing:
            into.firing.add(fingerprint)
            self._of[fingerprint] = into.id
        into.members += sum(name not in into.alerts for name in one.alerts)
        into.alerts.update(one.alerts)
        into.jobs.update(one.jobs)
        into.resolved_us.update(one.resolved_us)
        into.severity = max(into.severity, one.severity)
        one.firing.clear()
        one.merged_into = into.id
        one.quiet_us = time_us - SETTLE_US
        one.changed = True

    def _pass(self, time_us: int) -> list[Incident]:
        """What one second brings: notices that are due, incidents that are over."""
        changed: list[Incident] = []
        for one in list(self._open.values()):
            over = one.quiet_us is not None and time_us - one.quiet_us >= SETTLE_US
            if over:
                del self._open[one.id]
                one.notice += one.notice > 0
            elif one.due_us is not None and one.due_us <= time_us:
                one.due_us, one.told, one.told_us = None, one.rank, time_us
                one.notice += 1
            elif not one.changed:
                continue
            one.changed, one.changed_us = False, time_us
            one.revision += 1
            changed.append(_incident(one, time_us if over else None))
        return changed


def _due_us(one: _Open, alert: Alert, time_us: int) -> int | None:
    """When people are to be told of an incident that an alert has joined; None where they know."""
    severity, wide = one.rank
    itself = width(alert.subject)
    if severity > one.told[0] or itself > one.told[1]:
        return time_us + (0 if itself >= _RACK else GATHER_US)
    return max(time_us + GATHER_US, one.told_us + WIDER_US) if wide > one.told[1] else None


def _together(one: _Open, alert: Alert, place: Subject | None) -> bool:
    """Whether an alert beside an incident belongs to it."""
    if one.jobs.intersection(alert.jobs):
        return True
    if place is None or one.family not in _OF_THE_BUILDING:
        return False
    racks = {one.subject.scope, alert.subject.scope} == {"rack"}
    return place.scope in {"node", "rack"} or (place.scope == "hall" and racks)


def _incident(one: _Open, resolved_us: int | None) -> Incident:
    alerts = list(one.alerts.values())
    lead = _lead(alerts)
    apart = widest(alerts)
    pflops = [alert.pflops for alert in apart if alert.pflops is not None]
    gpus = sum(alert.gpus for alert in apart)
    return Incident(
        id=one.id,
        state="open" if resolved_us is None else "resolved",
        severity=SEVERITIES[one.severity],
        title=_title(one.subject, lead, gpus),
        family=one.family,
        cause=lead.cause or lead.rule,
        subject=one.subject,
        opened_us=one.opened_us,
        changed_us=one.changed_us,
        revision=one.revision,
        notice=one.notice,
        members=tuple(_members(alerts, one.resolved_us)),
        member_count=one.members,
        resolved_us=resolved_us,
        confidence=lead.confidence,
        concerns=_concerns(alerts),
        tenants=united(alert.tenants for alert in alerts),
        jobs=united(alert.jobs for alert in alerts),
        gpus=gpus,
        pflops=sum(pflops) if pflops else None,
        runbook=lead.runbook,
        action=lead.action,
        text=f"Part of incident {one.merged_into}." if one.merged_into else lead.text,
        origin=lead.origin,
    )


def _lead(alerts: Sequence[Alert]) -> Alert:
    """The alert that says best what is wrong: one with a cause, then the widest, gravest, first."""

    def rank(alert: Alert) -> tuple[bool, int, int, int, str]:
        severity = SEVERITIES.index(alert.severity)
        named = bool(alert.cause)
        return (named, width(alert.subject), severity, -alert.since_us, alert.fingerprint)

    return max(alerts, key=rank)


def _concerns(alerts: Iterable[Alert]) -> str:
    """The operator's, as soon as one of them is."""
    return "operator" if any(one.concerns == "operator" for one in alerts) else "tenant"


def _members(alerts: Sequence[Alert], resolved_us: dict[str, int]) -> list[Member]:
    def gravest(alert: Alert) -> tuple[int, int, str]:
        return -SEVERITIES.index(alert.severity), alert.since_us, alert.fingerprint

    return [
        Member(
            one.fingerprint, one.rule, one.severity, one.subject, one.since_us,
            resolved_us.get(one.fingerprint), one.title,
        )
        for one in sorted(alerts, key=gravest)[:MOST_MEMBERS]
    ]  # fmt: skip


def _title(subject: Subject, lead: Alert, gpus: int) -> str:
    what = lead.title or (lead.cause or lead.rule).replace("_", " ")
    many = f", {gpus} GPUs" if gpus > 1 else ""
    return f"{_place_words(subject)}: {what}{many}"


def _place_words(subject: Subject) -> str:
    if subject.scope == "rack":
        return f"Rack {subject.rack} ({subject.hall})"
    if subject.scope == "gpu":
        return subject.name
    return f"{subject.scope.capitalize()} {subject.name}"
