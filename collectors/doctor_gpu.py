"""`petawatch doctor --gpu`: what each GPU of this node gives, what it does not, and why."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence

from collectors.contract.facts import GpuFacts
from collectors.contract.flop import FLOP_METHOD_NAMES, FlopMethod
from collectors.contract.source import (
    Backend,
    BackendUnavailableError,
    Device,
    DeviceLostError,
    DriverGoneError,
    TransientError,
    UnsupportedError,
)
from collectors.kernel_log.reader import KernelLog
from collectors.kit import plugins
from collectors.kit.checks import Check, Verdict
from collectors.kit.clock import SystemClock

_PATIENCE_S = 60.0
"""A broken driver may hold a call for half a minute."""
_READING_S = 15.0
"""One GPU's: what takes longer is told as hanging, and the others all the same."""
_HANGS = f"no answer within {_READING_S:.0f} s"
_BETWEEN_S = 1.2
"""Between two readings: FLOP are found in a window, not at a moment."""
_MEASURED = {
    FLOP_METHOD_NAMES[method]
    for method in (FlopMethod.CYCLES, FlopMethod.PIPE, FlopMethod.EXPORTER)
}
OF_THE_GPU = frozenset({"power_w", "gpu_temperature_c", "sm_clock_mhz"})
"""What the instances of a divided GPU share: it stands at the GPU's own slot."""
_REPAIR = {
    "lost": "See its events; reboot the node where it does not come back.",
    "needs_reset": "Take the work off it and reset it: nvidia-smi --gpu-reset.",
    "hung": "See the kernel log; reboot the node where it does not answer again.",
}


def gpu_checks(backend: str, pause: Callable[[float], object]) -> list[Check]:
    """Opens the backend, reads every GPU twice and says what came of it; raises nothing.

    `pause` waits that many seconds.  A GPU whose driver hangs is given up after 15 s, the whole
    after a minute.
    """
    found: list[Check] = []
    worker = threading.Thread(target=_look_safely, args=(backend, pause, found), daemon=True)
    worker.start()
    worker.join(_PATIENCE_S)
    if worker.is_alive():
        todo = "The driver hangs: see the kernel log; a reboot is likely needed."
        text = f"a call has not returned within {_PATIENCE_S:.0f} s"
        return [*found, Check("Driver", Verdict.FAIL, text, todo)]
    return found


def _look_safely(name: str, pause: Callable[[float], object], found: list[Check]) -> None:
    try:
        _look(name, pause, found)
    except Exception as error:
        found.append(Check("Driver", Verdict.FAIL, repr(error), "Report this: nobody foresaw it."))


def _look(name: str, pause: Callable[[float], object], found: list[Check]) -> None:
    try:
        backend: Backend = plugins.load("petawatch.backends", name)()
        backend.open()
    except (BackendUnavailableError, DriverGoneError, plugins.MissingPartError) as error:
        found.append(Check("Driver", Verdict.FAIL, str(error), "Without it nothing can be read."))
        return
    try:
        found.append(_driver(backend))
        troubles = _read_twice(backend, pause)
        facts = [fact for device in backend.devices() for fact in device.facts()]
        found += _devices(facts, troubles)
        found += [_unreadable(name, why) for name, why in sorted(backend.missing().items())]
        found += _missing(facts)
        found.append(_events(backend))
    except (DriverGoneError, BackendUnavailableError) as error:
        found.append(Check("Driver", Verdict.FAIL, str(error), "See the kernel log."))
    finally:
        backend.close()
    found.append(_kernel_log())


def _driver(backend: Backend) -> Check:
    many = len(backend.devices())
    version = backend.driver or "no version"
    verdict = Verdict.OK if many else Verdict.WARN
    return Check("Driver", verdict, f"{version}, {many} GPUs", "" if many else "See nvidia-smi.")


def _read_twice(backend: Backend, pause: Callable[[float], object]) -> dict[str, str]:
    """Slot → what went wrong at the second reading, which closes a window of the first."""
    devices = backend.devices()
    found = list(zip(devices, _read_beside(devices), strict=True))
    pause(_BETWEEN_S)
    answering = [device for device, trouble in found if trouble != _HANGS]
    again = zip(answering, _read_beside(answering), strict=True)
    told = [(device, trouble) for device, trouble in found if trouble == _HANGS] + list(again)
    return {
        next((fact.slot for fact in device.facts()), ""): trouble
        for device, trouble in told
        if trouble
    }


class _Reading(threading.Thread):
    """One GPU's, which may never come back; it must not keep the process then."""

    def __init__(self, device: Device) -> None:
        super().__init__(daemon=True)
        self._device = device
        self.trouble = _HANGS
        self.error: Exception | None = None

    def run(self) -> None:
        """Reads, and keeps what came of it."""
        try:
            self.trouble = _read(self._device)
        except Exception as error:
            self.error = error


def _read_beside(devices: Sequence[Device]) -> list[str]:
    """What went wrong with each, "" for nothing; all at once, so that none holds up the others."""
    clock, readings = SystemClock(), [_Reading(device) for device in devices]
    for reading in readings:
        reading.start()
    until_us = clock.monotonic_us() + int(_READING_S * 1e6)
    for reading in readings:
        reading.join(max(0.0, (until_us - clock.monotonic_us()) / 1e6))
        if reading.error is not None:
            raise reading.error
    return [reading.trouble for reading in readings]


def _read(device: Device) -> str:
    try:
        device.read()
    except (TransientError, DeviceLostError) as error:
        return str(error)
    try:
        device.processes()
    except (UnsupportedError, TransientError, DeviceLostError):
        return ""  # it stands among what is not supported
    return ""


def _devices(facts: Sequence[GpuFacts], troubles: dict[str, str]) -> list[Check]:
    checks: list[Check] = []
    whole = [fact for fact in facts if not fact.parent]
    for fact in whole:
        name = f"GPU {fact.slot if fact.number is None else fact.number}"
        checks.append(_state(name, fact, troubles.get(fact.slot, "")))
        if checks[-1].verdict is Verdict.FAIL:
            continue
        parts = [one for one in facts if one.parent == fact.slot]
        if parts:
            profiles = ", ".join(one.profile or one.slot for one in parts)
            checks.append(Check(f"{name} MIG", Verdict.OK, f"{len(parts)} instances: {profiles}"))
        checks += [_flop(f"{name} FLOP", one) for one in parts or [fact]]
    return checks


def _state(name: str, fact: GpuFacts, trouble: str) -> Check:
    shown = ", ".join(filter(None, (fact.model or "unknown model", fact.slot, fact.uuid)))
    if fact.state in _REPAIR:
        return Check(
            name, Verdict.FAIL, f"{shown}: {fact.state} {trouble}".rstrip(), _REPAIR[fact.state]
        )
    if trouble:
        todo = _REPAIR["hung"] if trouble == _HANGS else "Look again; then see the kernel log."
        return Check(name, Verdict.FAIL, f"{shown}: {trouble}", todo)
    return Check(name, Verdict.OK, shown)


def _unreadable(name: str, why: str) -> Check:
    """A GPU that the driver counts and that does not say who it is."""
    return Check(name, Verdict.FAIL, why, "See the kernel log; reset it, or reboot the node.")


def _flop(name: str, fact: GpuFacts) -> Check:
    found = f"{fact.flop_method}" + (f" ({fact.profile})" if fact.profile else "")
    if fact.flop_reason:
        found += f": {fact.flop_reason}"
    if fact.flop_method in _MEASURED:
        return Check(name, Verdict.OK, found)
    estimate = fact.flop_method == FLOP_METHOD_NAMES[FlopMethod.ESTIMATE]
    todo = (
        "Shown as an estimate, outside the headline." if estimate else "No FLOP are shown for it."
    )
    return Check(name, Verdict.WARN, found, todo)


def grouped(rows: Iterable[tuple[str, str, str]]) -> dict[tuple[str, str], list[str]]:
    """(signal, why) → on what, of rows of (on what, signal, why), in order of signal."""
    found: dict[tuple[str, str], list[str]] = {}
    for where, signal, why in rows:
        found.setdefault((signal, why), []).append(where)
    return dict(sorted(found.items()))


def lacking(unsupported: Mapping[str, str], *, instance: bool) -> list[tuple[str, str]]:
    """Signals and why; what an instance leaves to its GPU is not lacking."""
    left = OF_THE_GPU if instance else frozenset[str]()
    return [(name, why) for name, why in unsupported.items() if name not in left]


def _missing(facts: Sequence[GpuFacts]) -> list[Check]:
    """One line per signal and reason, not per GPU."""
    rows = [
        (fact.slot, name, why)
        for fact in facts
        for name, why in lacking(fact.unsupported, instance=bool(fact.parent))
    ]
    whole = {fact.slot for fact in facts if not fact.parent and fact.state == "ok"}
    checks: list[Check] = []
    for (signal, why), slots in grouped(rows).items():
        everywhere = len(whole) > 1 and set(slots) >= whole
        where = "by any GPU" if everywhere else f"by {', '.join(slots)}"
        checks.append(Check(signal, Verdict.WARN, f"not given {where}: {why}"))
    return checks


def _events(backend: Backend) -> Check:
    try:
        backend.wait_events(0.01)
    except UnsupportedError as error:
        return Check(
            "Events", Verdict.WARN, str(error), "The kernel log is the other source of XIDs."
        )
    return Check("Events", Verdict.OK, "the driver reports them")


def _kernel_log() -> Check:
    log = KernelLog()
    try:
        log.wait(0)
    except UnsupportedError as error:
        return Check("Kernel log", Verdict.WARN, str(error))
    finally:
        log.close()
    return Check("Kernel log", Verdict.OK, "can be read")
