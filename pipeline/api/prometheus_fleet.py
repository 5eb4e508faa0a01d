"""Prometheus text of events and agents."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

from pipeline.api.fleet_log import FleetLog
from pipeline.api.prometheus import labels_text

_Sample = tuple[Mapping[str, str], float]


def render_fleet_log(log: FleetLog, installed: Container[str], now_us: int) -> list[bytes]:
    """Events by kind, code and whom they concern, and per node its agent's facts."""
    told = log.agents(installed).items()
    agents = [(name, bus_us, facts) for name, (bus_us, facts) in told]
    counted = [
        ({"kind": kind, "code": code, "concerns": concerns}, float(many))
        for (kind, code, concerns), many in sorted(log.counts.items())
    ]
    info = [
        (
            {
                "node": name,
                "version": facts.version,
                "driver": facts.driver,
                "source": facts.source,
                "origin": facts.origin,
            },
            1.0,
        )
        for name, _, facts in agents
    ]
    ages = [({"node": name}, max(0.0, (now_us - bus_us) / 1e6)) for name, bus_us, _ in agents]
    spooled = [({"node": name}, float(facts.spooled)) for name, _, facts in agents]
    dropped = [({"node": name}, float(facts.dropped)) for name, _, facts in agents]
    return [
        *_block("events_total", "counter", "Events since this process began.", counted),
        *_block("agent_info", "gauge", "What runs on a node.", info),
        *_block("agent_facts_age_seconds", "gauge", "Since an agent last spoke of itself.", ages),
        *_block("agent_spooled_records", "gauge", "Records that wait on a node's disk.", spooled),
        *_block("agent_dropped_records", "gauge", "Records that a node's bounds removed.", dropped),
    ]


def _block(name: str, kind: str, text: str, samples: Iterable[_Sample]) -> list[bytes]:
    full = f"petawatch_{name}"
    lines = [f"{full}{labels_text(labels)} {value:.15g}" for labels, value in samples]
    if not lines:
        return []
    head = f"# HELP {full} {text}\n# TYPE {full} {kind}\n"
    return [(head + "\n".join(lines) + "\n").encode()]
