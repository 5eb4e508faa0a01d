"""What is still to be told to whom: a function of the log's incidents and deliveries.

Nothing is kept outside the log: after a restart the desk is filled from it
again.  A notice is over at a target when a delivery of it, or of a later one of
the same incident, has a final outcome there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from collectors.contract.alerts import Delivery, Incident
from pipeline.notify.targets import AnyTarget

MOST_WAITING = 10_000
"""Notices kept for targets that are away; beyond it older ones of an incident are left out."""


@dataclass(slots=True)
class _Known:
    """One incident: its notices that somebody still lacks, in order."""

    latest: Incident
    bus_us: int
    waiting: dict[int, Incident] = field(default_factory=dict[int, Incident])


@dataclass(slots=True)
class _Sent:
    """What a target knows of an incident."""

    over: int = 0
    """The highest notice that is over."""
    told: int = 0
    """The highest that was sent, 0 where it knows nothing."""
    sending: int = 0
    """The highest that was begun."""


@dataclass(frozen=True, slots=True)
class Due:
    """A notice that a target has not had."""

    incident: Incident
    kind: str
    bus_us: int
    told_before: bool
    maybe_repeated: bool
    ended: bool
    """Whether the incident is over by now."""


class Desk:
    """Incidents and deliveries as the log has them."""

    def __init__(self, targets: Sequence[AnyTarget]) -> None:
        self._targets = {target.name: target for target in targets}
        self._known: dict[str, _Known] = {}
        self._sent: dict[tuple[str, str], _Sent] = {}
        self.folded = 0
        """Notices left out because too many waited."""

    def take_incident(self, incident: Incident, bus_us: int) -> None:
        """A revision of an incident; an older one than is known, or than people were told of, says
        nothing: a `watch` that was frozen while another went on may send it after the end."""
        known = self._known.get(incident.id)
        if known is not None and incident.revision < known.latest.revision:
            return
        if any(self._told_more(name, incident) for name in self._targets):
            return
        if known is None:
            known = self._known[incident.id] = _Known(incident, bus_us)
        known.latest = incident
        if incident.notice and any(self._lacks(name, incident) for name in self._targets):
            known.waiting[incident.notice] = incident
            self._fold()
        self._tidy(incident.id)

    def take_delivery(self, delivery: Delivery) -> None:
        """What became of a notice, ours or told by the log."""
        known = self._known.get(delivery.incident)
        if known is not None and known.latest.notice < delivery.notice:
            del self._known[delivery.incident]  # what is known is older than what was told
        sent = self._sent.setdefault((delivery.target, delivery.incident), _Sent())
        if delivery.outcome == "sending":
            sent.sending = max(sent.sending, delivery.notice)
            return
        sent.over = max(sent.over, delivery.notice)
        if delivery.outcome == "sent":
            sent.told = max(sent.told, delivery.notice)
        self._tidy(delivery.incident)

    def due(self, target: str) -> Iterator[Due]:
        """The next notice of each incident that a target lacks, the oldest incident first."""
        for name, known in self._known.items():
            sent = self._sent.get((target, name), _Sent())
            later = sorted(number for number in known.waiting if number > sent.over)
            if later:
                incident = known.waiting[later[0]]
                yield Due(
                    incident,
                    _kind(incident, told=sent.told > 0),
                    known.bus_us,
                    sent.told > 0,
                    sent.sending >= incident.notice,
                    known.latest.state == "resolved",
                )

    def open_at(self, target: str) -> list[Incident]:
        """Open incidents that a target was told of."""
        return [
            known.latest
            for name, known in self._known.items()
            if known.latest.state == "open" and self._sent.get((target, name), _Sent()).told
        ]

    def waiting(self, target: str) -> int:
        """Incidents of which a target lacks something."""
        return sum(1 for _ in self.due(target))

    def _lacks(self, target: str, incident: Incident) -> bool:
        return self._sent.get((target, incident.id), _Sent()).over < incident.notice

    def _told_more(self, target: str, incident: Incident) -> bool:
        return self._sent.get((target, incident.id), _Sent()).over > incident.notice

    def _tidy(self, name: str) -> None:
        """Forgets notices that are over everywhere, and incidents that are over for good."""
        known = self._known.get(name)
        if known is None:
            return
        for number, incident in list(known.waiting.items()):
            if not any(self._lacks(target, incident) for target in self._targets):
                del known.waiting[number]
        if not known.waiting and known.latest.state == "resolved":
            del self._known[name]

    def _fold(self) -> None:
        total = sum(len(known.waiting) for known in self._known.values())
        for known in self._known.values() if total > MOST_WAITING else ():
            for number in sorted(known.waiting)[:-1]:
                del known.waiting[number]
                self.folded += 1


def _kind(incident: Incident, *, told: bool) -> str:
    if incident.state == "resolved":
        return "resolved"
    return "worse" if told else "opened"
