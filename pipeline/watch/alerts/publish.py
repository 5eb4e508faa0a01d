"""Transitions and incidents onto the bus, each once: what stands there already is not sent again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from collectors.contract.alerts import Alert, Incident
from collectors.contract.bus import Bus, Message
from collectors.contract.topics import ALERTS
from pipeline.watch.alerts.whole import whole

_MOST_KNOWN = 500_000


class Published:
    """The last of each alert and incident that is on the bus."""

    def __init__(self) -> None:
        self._alerts: dict[str, tuple[int, str, str]] = {}
        self._incidents: dict[str, int] = {}
        self.repeats = 0

    async def read(self, bus: Bus, topic: str) -> None:
        """Reads the topic to the end that it has now.  Raises BusUnavailableError."""
        async for chunk in whole(bus, topic):
            self.learn(zip(chunk.keys, chunk.values, strict=True))

    def learn(self, records: Iterable[tuple[bytes, bytes]]) -> None:
        """Takes records of the topic in; what cannot be read is none of ours, and what comes after
        something later is of one that was frozen."""
        for key, value in records:
            try:
                if key.startswith(b"alert/"):
                    alert = msgspec.json.decode(value, type=Alert)
                    if alert.at_us >= self._alerts.get(alert.fingerprint, (0,))[0]:
                        self._alerts[alert.fingerprint] = _name(alert)
                elif key.startswith(b"incident/"):
                    incident = msgspec.json.decode(value, type=Incident)
                    known = self._incidents.get(incident.id, 0)
                    self._incidents[incident.id] = max(known, incident.revision)
            except (msgspec.DecodeError, msgspec.ValidationError):
                continue

    def new(self, alerts: Sequence[Alert], incidents: Sequence[Incident]) -> list[Alert | Incident]:
        """Those that are not on the bus yet, in their order, alerts first; they count as sent."""
        out: list[Alert | Incident] = []
        for alert in alerts:
            known = self._alerts.get(alert.fingerprint)
            if known is not None and (alert.at_us < known[0] or _name(alert) == known):
                self.repeats += 1
                continue
            self._alerts[alert.fingerprint] = _name(alert)
            out.append(alert)
        for incident in incidents:
            if incident.revision <= self._incidents.get(incident.id, 0):
                self.repeats += 1
                continue
            self._incidents[incident.id] = incident.revision
            out.append(incident)
        self._forget()
        return out

    def _forget(self) -> None:
        """Bounds what is known: the longest known are gone first."""
        for known in (self._alerts, self._incidents):
            while len(known) > _MOST_KNOWN:
                del known[next(iter(known))]


def _name(alert: Alert) -> tuple[int, str, str]:
    return alert.at_us, alert.state, alert.severity


def messages(records: Sequence[Alert | Incident], prefix: str) -> list[Message]:
    """Records of `petawatch.alerts`."""
    return [Message(prefix + ALERTS, one.key, msgspec.json.encode(one)) for one in records]
