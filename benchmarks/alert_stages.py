"""Where the time between a sample and its message goes, told from the log of alerts alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from collectors.contract.alerts import Alert, AlertRecord, Delivery, Incident, parse_alert_record
from collectors.contract.bus import Bus
from collectors.contract.topics import ALERTS

STAGES = ("sample to alert", "gathered", "notifier begins", "message arrives")


class Written(NamedTuple):
    """A record of `petawatch.alerts` and when the bus took it."""

    bus_us: int
    record: AlertRecord


async def read_alerts(bus: Bus, prefix: str) -> list[Written]:
    """All of the topic, in order.  Raises BusUnavailableError."""
    consumer = bus.consumer([prefix + ALERTS], None)
    await consumer.start()
    ends = await consumer.end_offsets()
    reached = dict.fromkeys(ends, 0)
    out: list[Written] = []
    while any(reached[p] < end for p, end in ends.items()):
        for chunk in await consumer.fetch(1.0):
            reached[chunk.partition] = chunk.next_offset
            records = map(parse_alert_record, map(bytes, chunk.keys), map(bytes, chunk.values))
            out += map(Written, chunk.bus_us, records)
    await consumer.stop()
    return out


def fired(log: Sequence[Written]) -> dict[str, int]:
    """How many alerts of each rule fired."""
    seen = {
        (one.rule, one.fingerprint) for _, one in log
        if isinstance(one, Alert) and one.state == "firing"
    }  # fmt: skip
    out: dict[str, int] = {}
    for rule, _ in seen:
        out[rule] = out.get(rule, 0) + 1
    return out


def stages(log: Sequence[Written], told: Mapping[str, tuple[int, int]]) -> dict[str, list[float]]:
    """Per stage the median and the 99th percentile, s.

    `told` has for each incident that people were told of when it would have
    fired without any delay, and when its message arrived, both in µs.
    """
    alert_us, opened_us, begun_us = dict[str, int](), dict[str, int](), dict[str, int]()
    for bus_us, one in log:
        if isinstance(one, Alert) and one.state == "firing" and one.incident:
            alert_us.setdefault(one.incident, bus_us)
        elif isinstance(one, Incident) and one.notice:
            opened_us.setdefault(one.id, bus_us)
        elif isinstance(one, Delivery) and one.outcome == "sending":
            begun_us.setdefault(one.incident, bus_us)
    rows = [
        (at_us, alert_us[name], opened_us[name], begun_us[name], arrived_us)
        for name, (at_us, arrived_us) in told.items()
    ]
    steps = np.diff(np.array(rows, np.float64).reshape(-1, len(STAGES) + 1), axis=1) / 1e6
    return {
        name: [round(float(x), 2) for x in np.percentile(steps[:, at], (50, 99))] if rows else []
        for at, name in enumerate(STAGES)
    }
