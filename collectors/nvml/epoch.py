"""What a GPU's energy counter continues over: the GPU, the kernel's boot, the driver's load."""

from __future__ import annotations

import hashlib
from pathlib import Path

_W_AT_MOST = 10_000
"""More than any board or module draws."""
_SLACK_MJ = 1_000_000
"""The counter moves in steps, and its stamp is not ours: a kilojoule is no fault."""


def host_id(root: Path = Path("/")) -> str:
    """This boot, and this load of the driver.

    The driver's load shows in its version and in when its control device was
    made; what cannot be read is left out, as a fall of the counter shows a
    reload as well.
    """
    parts: list[str] = []
    for name in ("proc/sys/kernel/random/boot_id", "sys/module/nvidia/version"):
        try:
            parts.append((root / name).read_text(encoding="ascii").strip())
        except OSError:
            parts.append("")
    try:
        parts.append(str((root / "dev/nvidiactl").stat().st_mtime_ns))
    except OSError:
        parts.append("")
    return "\n".join(parts)


def energy_epoch(uuid: str, host: str) -> int:
    """64 bits of the GPU, the kernel's boot and the driver's load."""
    digest = hashlib.blake2b(f"{uuid}\n{host}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


class EnergyEpochs:
    """The epoch of one GPU's counter, which also ends where a reading cannot continue the last:
    a fall (the GPU was reset), or a step that no board can take."""

    def __init__(self, uuid: str, host: str) -> None:
        self._uuid, self._host = uuid, host
        self._last_mj: int | None = None
        self._at_us = 0
        self.epoch = energy_epoch(uuid, host)

    def take(self, energy_mj: int, now_us: int, wall_us: int) -> None:
        """A reading at `now_us` of the monotonic clock; `wall_us` names the epoch that it may
        begin, so that none comes twice."""
        last, self._last_mj = self._last_mj, energy_mj
        most = _W_AT_MOST * (now_us - self._at_us) // 1000 + _SLACK_MJ
        self._at_us = now_us
        if last is not None and not 0 <= energy_mj - last <= most:
            self.epoch = energy_epoch(self._uuid, f"{self._host}\n{wall_us}")
