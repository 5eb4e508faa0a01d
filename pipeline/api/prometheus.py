"""Prometheus text of the fleet, rendered by columns, and of this process and the roles it knows.

A label set is rendered once per GPU and reused for each metric; the numbers
of a metric become text in one call.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import compress
from operator import add
from pathlib import Path

import numpy as np
import orjson

from collectors.contract.catalogue import CATALOGUE, COUNTER_ABSENT, Kind
from collectors.contract.identity import slot_text
from collectors.contract.inventory import Inventory
from collectors.contract.record import Origin, SlotLabels
from pipeline.api.fleet import Latest
from pipeline.health import HealthRecord

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})


def labels_text(labels: Mapping[str, str]) -> str:
    """`{name="value",…}`, escaped; nothing when there are none."""
    if not labels:
        return ""
    pairs = ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in labels.items())
    return f"{{{pairs}}}"


def _gpu_labels(
    latest: Latest, inventory: Inventory, occupants: Mapping[str, Iterable[SlotLabels]]
) -> list[bytes]:
    models = {node.name: node.model for node in inventory.nodes}
    seated = {(node, seat.slot): seat for node, seats in occupants.items() for seat in seats}
    texts: list[bytes] = []
    for code, slot, origin in zip(
        latest.node.tolist(), latest.slot.tolist(), latest.origin.tolist(), strict=True
    ):
        node = latest.nodes[int(code)]
        seat = seated.get((node, slot))
        labels = {
            "site": inventory.name,
            "node": node,
            "slot": slot_text(slot),
            "model": (seat and seat.model) or models.get(node, ""),
        }
        if seat and seat.uuid:
            labels["uuid"] = seat.uuid
        labels["origin"] = Origin(origin).name.lower()
        texts.append(f"{labels_text(labels)} ".encode())
    return texts


def render_fleet(
    latest: Latest, inventory: Inventory, occupants: Mapping[str, Iterable[SlotLabels]]
) -> list[bytes]:
    """Every catalogue metric of every GPU that has it, as `petawatch_<name>`.

    `occupants` are the labels known per node.  A value that is absent has no line.
    """
    gpus = _gpu_labels(latest, inventory, occupants)
    blocks: list[bytes] = []
    for metric in CATALOGUE:
        if metric.kind is Kind.GAUGE:
            column = latest.gauges.get(metric.name)
            present = None if column is None else np.isfinite(column)
        else:
            column = latest.counters.get(metric.name)
            present = None if column is None else column != np.uint64(COUNTER_ABSENT)
        if column is None or present is None or not present.any():
            continue
        name = f"petawatch_{metric.name}".encode()
        numbers = orjson.dumps(column[present], option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
        lines = map(add, compress(gpus, present.tolist()), numbers.split(b","))
        head = (
            f"# HELP petawatch_{metric.name} {_help(metric.help)} Unit: {metric.unit or 'none'}.\n"
        )
        kind = f"# TYPE petawatch_{metric.name} {metric.kind.value}\n"
        blocks.append(head.encode() + kind.encode() + name + (b"\n" + name).join(lines) + b"\n")
    return blocks


def _help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", " ")


def render_process(answers: Mapping[int, int]) -> list[bytes]:
    """CPU, memory and answers of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    lines = [
        "# HELP process_cpu_seconds_total CPU time of this process.",
        "# TYPE process_cpu_seconds_total counter",
        f"process_cpu_seconds_total {used.ru_utime + used.ru_stime}",
        "# HELP process_resident_memory_bytes Memory that this process has in RAM.",
        "# TYPE process_resident_memory_bytes gauge",
        f"process_resident_memory_bytes {resident_bytes()}",
        "# HELP petawatch_http_answers_total HTTP answers by class of status.",
        "# TYPE petawatch_http_answers_total counter",
        *(
            f'petawatch_http_answers_total{{status="{k}xx"}} {v}'
            for k, v in sorted(answers.items())
        ),
    ]
    return ["\n".join(lines).encode() + b"\n"]


def resident_bytes() -> int:
    """Resident memory; its peak where the system does not tell the present."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def render_health(records: Sequence[HealthRecord]) -> list[bytes]:
    """The roles' boards as `petawatch_health_<name>`, with the labels role and instance."""
    lines: dict[str, list[str]] = {}
    for record in records:
        own = {"role": record.role, "instance": record.instance}
        for name, rows in record.values.items():
            lines.setdefault(name, []).extend(
                f"petawatch_health_{name}{labels_text({**own, **row.labels})} {row.value}"
                for row in rows
            )
    return [
        f"# TYPE petawatch_health_{name} untyped\n{chr(10).join(rows)}\n".encode()
        for name, rows in lines.items()
        if rows
    ]
