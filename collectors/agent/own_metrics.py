"""What an agent counts of itself, as metrics."""

from __future__ import annotations

from pathlib import Path
from resource import getpagesize

from collectors.agent.agent import Agent
from collectors.agent.driver import OPEN
from collectors.agent.metrics import Family, single
from collectors.agent.node_facts import own_version
from collectors.agent.outbox import Outbox
from collectors.agent.settings import NodeSettings
from collectors.agent.slots import AWAY, HUNG, LOST, NEEDS_RESET, OK, RELEASED
from collectors.contract.identity import slot_text

_STATES = (OK, LOST, NEEDS_RESET, HUNG, RELEASED, AWAY)
_FAILURES = ("transient", "lost", "driver", "late", "unforeseen")
_DRIVER_STATES = (OPEN, AWAY, RELEASED)
_P = "petawatch_agent_"


def families(agent: Agent, settings: NodeSettings) -> list[Family]:
    """Of the loop."""
    info = {"version": own_version(), "node": settings.name, "backend": settings.backend}
    states = [
        ({"slot": slot_text(slot), "state": state}, float(known.state == state))
        for slot, known in agent.slots
        for state in _STATES
    ]
    failures = [({"reason": one}, agent.slots.failures.get(one, 0)) for one in _FAILURES]
    driver = [({"state": one}, float(agent.driver.state == one)) for one in _DRIVER_STATES]
    return [
        Family(_P + "build_info", "What runs here.", [(info, 1)]),
        single(_P + "records_total", "Records made, one a tick.", agent.records),
        single(_P + "late_ticks_total", "Ticks whose record lacks a device that had not answered "
               "in time.", agent.late_ticks),
        Family(_P + "device_state", "1 for the state that a slot is in.", states),
        Family(_P + "driver_state", "1 for the state that the driver is in.", driver),
        single(_P + "calls_under_way", "Devices that have not answered yet.",
               len(agent.lanes.stuck())),
        single(_P + "reading_threads", "Threads that read devices or are ready to.",
               agent.lanes.threads),
        Family(_P + "readings_failed_total", "Readings that gave nothing, by reason.", failures),
        single("process_resident_memory_bytes", "Resident memory.", _resident_bytes()),
    ]  # fmt: skip


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * getpagesize()


def outbox_families(outbox: Outbox) -> list[Family]:
    """What became of every message, and how the disk and the bus stand."""
    counts, spool = outbox.counts, outbox.progress()
    ends = [({"end": end}, getattr(counts, end)) for end in counts.__slots__]
    return [
        Family(_P + "messages_total", "Messages, by what became of them.", ends),
        single(_P + "messages_queued", "Messages that are in memory.", outbox.queued),
        single(_P + "bus_away", "1 while the bus does not answer.", float(spool.is_away)),
        single(_P + "spool_records", "Records that wait on disk.", spool.left),
        single(_P + "spool_bytes", "What they take.", spool.bytes),
        single(_P + "spool_dropped_total", "Records that the bounds removed since the file was "
               "made.", spool.dropped),
        single(_P + "spool_rate", "Records a second that leave the disk.", spool.rate),
        single(_P + "spool_failing", "1 while the disk cannot be used.", float(bool(spool.reason))),
    ]  # fmt: skip
