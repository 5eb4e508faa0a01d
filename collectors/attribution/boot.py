"""Which boot of the machine this is, and when it began."""

from __future__ import annotations

from pathlib import Path


def boot_id(proc: Path) -> str:
    """The kernel's own name of this boot, "" where it cannot be read."""
    try:
        return (proc / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def boot_us(proc: Path) -> int:
    """When it began by today's wall clock, in µs since 1970; 0 where it cannot be read."""
    try:
        lines = (proc / "stat").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("btime")) * 1_000_000
    except (OSError, ValueError, StopIteration):
        return 0
