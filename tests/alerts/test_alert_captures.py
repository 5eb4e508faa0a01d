"""Captures of real GPUs in, rules out: the throttled, braked, remapped and XID-ridden ones raise
theirs, the healthy ones none.  Each capture is taken to hold for three minutes."""

from __future__ import annotations

import json
import os
import random
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC
from pathlib import Path

import msgspec
import pytest
from alert_tools import T0, Life, Log, S

from collectors.contract.identity import slot_text, unpack_slot
from collectors.contract.inventory import InstalledNode, Inventory
from collectors.contract.record import NodeRecord, Origin
from collectors.contract.source import DeviceEvent
from collectors.contract.topics import EVENTS, GPU, Event
from collectors.contract.wire import encode
from collectors.contract.xids import xids
from collectors.kernel_log.lines import read_line
from collectors.kernel_log.messages import parse_message
from collectors.replay.recording import reader_for
from collectors.replay.samples import Rejects, Sample
from pipeline.watch.alerts.follow import AlertOptions
from pipeline.watch.alerts.rules_file import load_rules

WANTED: dict[str, list[str]] = json.loads(
    (Path(__file__).with_name("captures.json")).read_text(encoding="utf-8")
)
"""By file name: `rule slot` or `rule`, of all that fires."""
SECONDS, LONG_S = 180, {"rtx4090x8_sw_power_cap.535.154.05.txt": 700}
"""The longer for a rule whose hold is longer."""
CAPTURES = Path(__file__).parents[1] / "captures"
SHARED = Path(os.environ.get("PETAWATCH_RECORDINGS", CAPTURES.parents[2] / "shared" / "data"))
FOLDERS = [CAPTURES, *(SHARED / name for name in ("nvidia-smi-xml", "nvidia-smi-text",
                                                  "exporter-scrapes", "dcgm-exporter"))]  # fmt: skip
STATES = [
    path for folder in FOLDERS for end in ("txt", "xml", "prom")
    for path in sorted(folder.glob(f"*.{end}"))
]  # fmt: skip
LOGS = sorted([*(CAPTURES.parent / "kernel_log" / "captures").glob("*.log"),
               *(SHARED / "kernel-logs").glob("*.log"),
               *(SHARED / "kernel-logs").glob("*.txt")])  # fmt: skip
SITE = "n"


def case(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def events_of(path: Path) -> list[DeviceEvent]:
    lines = map(read_line, path.read_text(encoding="utf-8").splitlines())
    found = (parse_message(line.message) for line in lines if line is not None)
    return [event for event in found if event is not None]


def site(slots: list[int]) -> Inventory:
    node = InstalledNode(SITE, "H", "r", "H800-SXM", tuple(slots), 0.9894)
    return Inventory("s", "Site", "UTC", "fp16", "dense", "boost", (node,))


def last_of(path: Path) -> dict[int, Sample]:
    """The last sample of each whole GPU."""
    found = {one.labels.slot: one for one in reader_for(path, UTC, "")(path, Rejects())}
    return {slot: one for slot, one in sorted(found.items()) if unpack_slot(slot).gi < 0}


def held(samples: dict[int, Sample], seconds: int) -> Log:
    """A log in which a state goes on, counters standing still."""
    log, slots = Log(), list(samples)
    names = sorted({name for one in samples.values() for name in one.values})
    values = {
        name: [samples[slot].values[name] for slot in slots]
        for name in names
        if all(name in one.values for one in samples.values())
    }
    for second in range(seconds):
        at_us = T0 + second * S
        own = {"observed_us": second * S, "active_us": second * S, "down_us": 0}
        columns: dict[str, Sequence[float]] = dict(values)
        columns |= {name: [value] * len(slots) for name, value in own.items()}
        record = NodeRecord(
            SITE, Origin.REPLAYED, 9, second, at_us, 0, slots, [1] * len(slots), columns
        )
        log.put(GPU, SITE.encode(), encode(record), at_us + 30_000)
    return log


def fired(log: Log, inventory: Inventory) -> list[str]:
    life = Life(log, inventory, AlertOptions(load_rules()))
    life.read(random.Random(1))
    life.finish()
    found = [one for one in life.alerts if one.state == "firing"]
    return sorted({f"{one.rule} {one.subject.slot}".strip() for one in found})


@pytest.mark.parametrize("path", STATES, ids=case)
def test_a_state_raises_what_it_should(path: Path) -> None:
    samples = last_of(path)
    if not samples:
        pytest.skip("it holds no whole GPU")
    log = held(samples, LONG_S.get(path.name, SECONDS))
    assert fired(log, site(list(samples))) == WANTED.get(path.name, [])


@pytest.mark.parametrize("path", LOGS, ids=case)
def test_a_kernel_log_raises_what_it_should(path: Path) -> None:
    events = [one for one in events_of(path) if one.slot is not None]
    slots = sorted({one.slot for one in events if one.slot is not None}) or [1]
    log = Log()
    for number, one in enumerate(events):
        at_us = T0 + 20 * S + number
        told = Event(at_us, SITE, one.kind, slot_text(one.slot or 0), code=one.code, text=one.text)
        log.put(EVENTS, SITE.encode(), msgspec.json.encode(told), at_us)
    for second in range(60):
        at_us, n = T0 + second * S, len(slots)
        columns = {name: [second * S] * n for name in ("observed_us", "active_us")}
        record = NodeRecord(SITE, Origin.REPLAYED, 9, second, at_us, 0, slots, [1] * n, columns)
        log.put(GPU, SITE.encode(), encode(record), at_us)
    by_code: defaultdict[str, set[str]] = defaultdict(set)
    for one in events:
        advised = xids().get(one.code or 0)
        if one.kind == "xid" and advised is not None and advised.severity != "info":
            rule = "xid_of_program" if advised.concerns == "tenant" else "xid"
            by_code[rule].add(slot_text(one.slot or 0)[:12])
    found = fired(log, site(slots))
    tenant = {name.split()[1] for name in found if name.startswith("xid_of_program")}
    assert tenant == by_code["xid_of_program"]
    operator = {name.split()[1] for name in found if not name.startswith("xid_of")}
    assert operator >= by_code["xid"]
