"""`petawatch doctor`: what this machine has, and what to do about what it lacks."""

from __future__ import annotations

import asyncio
import ctypes
import importlib.metadata
import logging
import platform
import sys

import click
import msgspec

from collectors.contract.models import find_model
from collectors.contract.source import Backend, BackendUnavailableError, DriverGoneError
from collectors.doctor_fleet import fleet_checks
from collectors.doctor_fleet import gather as fleet_of
from collectors.doctor_gpu import gpu_checks
from collectors.kit import plugins
from collectors.kit.checks import Check, Verdict
from collectors.kit.clock import SystemClock

_OLDEST_PYTHON = (3, 11)
_UNSYNCHRONISED = 5
"""TIME_ERROR of ntp_gettime(3)."""
_CLOCK_ERROR_MS = 500.0
"""Node offsets of this size are still taken off by the pipeline; above it, say so."""


class _NtpTime(ctypes.Structure):
    _fields_ = (
        ("seconds", ctypes.c_long),
        ("microseconds", ctypes.c_long),
        ("maximum_error_us", ctypes.c_long),
        ("estimated_error_us", ctypes.c_long),
        ("reserved", ctypes.c_long * 8),
    )


def checks() -> list[Check]:
    """Python, our version, the clock and the GPUs: what an agent needs."""
    return [_python(), _version(), _clock(), *_gpus()]


def _python() -> Check:
    found = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info[:2] >= _OLDEST_PYTHON:
        return Check("Python", Verdict.OK, found)
    return Check("Python", Verdict.FAIL, found, "Install Python 3.11 or later.")


def _version() -> Check:
    extras = [part for part in ("pipeline", "dashboard") if _offers(part)]
    parts = ", ".join(["agent", *extras])
    return Check("Petawatch", Verdict.OK, f"{importlib.metadata.version('petawatch')} ({parts})")


def _offers(part: str) -> bool:
    name = {"pipeline": "fastapi", "dashboard": "dash"}[part]
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _clock() -> Check:
    time = _NtpTime()
    try:
        state = ctypes.CDLL(None, use_errno=True).ntp_gettime(ctypes.byref(time))
    except (AttributeError, OSError):
        return Check("Clock", Verdict.WARN, "this system does not say whether it is synchronised")
    error_ms = time.maximum_error_us / 1e3
    todo = "Run chrony or another NTP client; samples far off the bus's time are refused."
    if state in {-1, _UNSYNCHRONISED}:
        return Check("Clock", Verdict.WARN, "not synchronised, as the kernel sees it", todo)
    found = f"synchronised, at most {error_ms:.0f} ms off"
    verdict = Verdict.OK if error_ms <= _CLOCK_ERROR_MS else Verdict.WARN
    return Check("Clock", verdict, found, "" if verdict is Verdict.OK else todo)


def _gpus() -> list[Check]:
    try:
        backend: Backend = plugins.load("petawatch.backends", "nvml")()
        backend.open()
    except (BackendUnavailableError, DriverGoneError, plugins.MissingPartError) as error:
        todo = "Nothing, where there is no NVIDIA GPU: simulation, replay and the pages work."
        return [Check("GPUs", Verdict.WARN, str(error), todo)]
    try:
        models = [device.labels.model for device in backend.devices()]
    finally:
        backend.close()
    counts = {model: models.count(model) for model in sorted(set(models))}
    found = ", ".join(f"{count} × {model}" for model, count in counts.items()) or "none"
    unknown = [model for model in counts if find_model(model) is None]
    if not models:
        return [Check("GPUs", Verdict.WARN, "the driver answers and lists none", "See nvidia-smi.")]
    if unknown:
        todo = "Its peak is unknown: no FLOPS are shown for it, everything else is."
        return [Check("GPUs", Verdict.WARN, found, todo)]
    return [Check("GPUs", Verdict.OK, found)]


def gather() -> list[Check]:
    """The checks of all parts that are installed here, in order of part."""
    found: list[Check] = []
    for name in plugins.names("petawatch.checks"):
        try:
            found += plugins.load("petawatch.checks", name)()
        except plugins.MissingPartError as error:
            found.append(Check(name.capitalize(), Verdict.OK, f"not installed here ({error})"))
    return found


def _of_gpus(backend: str) -> list[Check]:
    root = logging.getLogger()
    if root.level == logging.INFO:
        # What the readings say in passing, the report says in order.
        root.setLevel(logging.WARNING)
    return gpu_checks(backend, _wait)


def _wait(seconds: float) -> None:
    asyncio.run(SystemClock().sleep(seconds))


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.option(
    "--gpu", is_flag=True, help="Read this node's GPUs and say what each gives and lacks."
)
@click.option("--backend", default="nvml", show_default=True, help="With --gpu: what reads them.")
@click.option("--fleet", is_flag=True, help="Ask a running installation about every node's agent.")
@click.option(
    "--url", default="http://127.0.0.1:8080", show_default=True, help="With --fleet: its address."
)
def doctor(*, as_json: bool, gpu: bool, backend: str, fleet: bool, url: str) -> None:
    """Says what is here, what is not, and what to do about it.

    Exit status 1 when something will not work, 2 when nothing could be found out.
    """
    if gpu and fleet:
        raise click.UsageError("--gpu looks here and --fleet at all nodes: write one of them")
    if fleet:
        found = fleet_checks(*fleet_of(url))
    elif gpu:
        found = _of_gpus(backend)
    else:
        found = gather()
    for check in found:
        click.echo(msgspec.json.encode(check).decode() if as_json else _line(check))
    if any(check.verdict is Verdict.FAIL for check in found):
        sys.exit(1)


def _line(check: Check) -> str:
    mark = {Verdict.OK: "✓", Verdict.WARN: "!", Verdict.FAIL: "✗"}[check.verdict]
    line = f"{mark} {check.verdict.value:<4}  {check.name:<14} {check.found}"
    return f"{line}\n{'':<23}→ {check.todo}" if check.todo else line
