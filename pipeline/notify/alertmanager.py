"""Alertmanager's API v2: it routes, groups, repeats and escalates.

An incident is one alert; what may change while it is open (place, members,
tenants) stands in annotations, so that labels stay and Alertmanager sees one
alert.  A graver one has another `severity`: the old one is ended with it.
Open ones are sent again before they would run out, as its clients must.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import httpx

from collectors.contract.alerts import SEVERITIES, Incident
from collectors.kit.clock import Clock
from collectors.kit.config import ConfigError
from pipeline.notify.errors import TargetRefusedError, TargetUnavailableError, checked
from pipeline.notify.notice import Notice
from pipeline.notify.targets import AlertmanagerTarget, Secrets

_log = logging.getLogger(__name__)
_LIFE = 4
"""An open alert ends by itself after so many times `refresh_s` without word from us."""


class AlertmanagerSender:
    """Posts incidents; `refresh` must be called every `refresh_s` while some are open."""

    def __init__(self, target: AlertmanagerTarget, secrets: Secrets, clock: Clock) -> None:
        self._target, self._secrets, self._clock = target, secrets, clock
        self._client = httpx.AsyncClient(timeout=target.timeout_s, follow_redirects=False)
        self._open: dict[str, Notice] = {}

    async def send(self, notice: Notice) -> None:
        """See Sender."""
        await self._post(self._alerts(notice))
        if notice.kind in {"resolved", "test"}:
            self._open.pop(notice.incident.id, None)
        else:
            self._open[notice.incident.id] = notice

    def keep(self, notices: Iterable[Notice]) -> None:
        """What was sent before a restart and is still open, to be sent again in time."""
        self._open.update({one.incident.id: one for one in notices})

    async def refresh(self) -> None:
        """Sends the open ones again; a target that is away is asked again next time."""
        if self._open:
            alerts = [self._alert(one, one.incident.severity, None) for one in self._open.values()]
            try:
                await self._post(alerts)
            except (TargetUnavailableError, TargetRefusedError) as error:
                _log.warning("refresh_failed target=%s %s", self._target.name, error)

    async def _post(self, alerts: list[dict[str, Any]]) -> None:
        headers: dict[str, str] = {}
        if self._target.token_file is not None:
            try:
                token = self._secrets.of_file(self._target.token_file)
            except ConfigError as error:
                raise TargetUnavailableError(str(error)) from error
            headers["Authorization"] = f"Bearer {token}"
        url = self._target.url.rstrip("/") + "/api/v2/alerts"
        await checked(self._client.post(url, json=alerts, headers=headers))

    def _alerts(self, notice: Notice) -> list[dict[str, Any]]:
        one, now_us = notice.incident, self._clock.wall_us()
        lower = SEVERITIES[1 : SEVERITIES.index(one.severity)]
        over = (
            [self._alert(notice, severity, now_us) for severity in lower] if one.notice > 1 else []
        )
        ended = now_us if notice.kind == "resolved" else None
        return [*over, self._alert(notice, one.severity, ended)]

    def _alert(self, notice: Notice, severity: str, ended_us: int | None) -> dict[str, Any]:
        one = notice.incident
        life_us = int(_LIFE * self._target.refresh_s * 1e6)
        ends_us = self._clock.wall_us() + life_us if ended_us is None else ended_us
        facts = {
            "summary": notice.title,
            "description": notice.text(),
            "place": one.subject.name,
            "tenants": ", ".join(one.tenants),
            "jobs": ", ".join(one.jobs),
            "gpus": str(one.gpus) if one.gpus else "",
            "runbook_url": notice.runbook_url,
            "idempotency_key": notice.idempotency_key,
        }
        return {
            "labels": _labels(one, severity, notice.site),
            "annotations": {name: text for name, text in facts.items() if text},
            "startsAt": _time(min(one.opened_us, ends_us)),
            "endsAt": _time(ends_us),
            **({"generatorURL": notice.url} if notice.url else {}),
        }

    async def close(self) -> None:
        """See Sender."""
        await self._client.aclose()


def _labels(one: Incident, severity: str, site: str) -> dict[str, str]:
    labels = {
        "alertname": f"Petawatch{one.family.capitalize()}",
        "incident": one.id,
        "family": one.family,
        "severity": severity,
        "concerns": one.concerns,
        "site": site,
    }
    if one.concerns == "tenant" and one.tenants:
        labels["tenant"] = one.tenants[0]
    return {name: text for name, text in labels.items() if text}


def _time(time_us: int) -> str:
    moment = datetime.fromtimestamp(time_us / 1e6, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
