"""What a device says when it is asked: it never raises, whatever the device does."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

from collectors.contract.facts import GpuFacts
from collectors.contract.identity import slot_text
from collectors.contract.source import (
    Device,
    DeviceLostError,
    GpuProcess,
    Sample,
    TransientError,
    UnsupportedError,
)

_log = logging.getLogger(__name__)


class Answer(NamedTuple):
    """What came of asking a device; `error` is of any kind, and then there are no samples."""

    samples: Sequence[Sample] = ()
    processes: Sequence[GpuProcess] | None = None
    """None where they were not asked for or not given."""
    facts: Sequence[GpuFacts] | None = None
    error: Exception | None = None


def answer_of(device: Device, *, inquire: bool) -> Answer:
    """Never raises: whatever a device does, the others are read."""
    try:
        samples = device.read()
        if not inquire:
            return Answer(samples)
        try:
            processes = device.processes()
        except (UnsupportedError, TransientError):
            processes = None
        return Answer(samples, processes, device.facts())
    except DeviceLostError as error:
        return Answer(error=error, facts=_facts(device))
    except Exception as error:
        return Answer(error=error)


def _facts(device: Device) -> Sequence[GpuFacts] | None:
    """They say whether it is lost or must be reset."""
    try:
        return device.facts()
    except Exception:
        _log.exception("facts_failed slot=%s", slot_text(device.slot))
        return None
