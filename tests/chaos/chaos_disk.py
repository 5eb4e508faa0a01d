"""Disks that can be filled: a small file system in memory where that may be mounted."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path


class Disk:
    """A folder of its own; `fill` leaves no room in it, `clear` gives it back.

    Where nothing may be mounted, the processes that write there may not let any
    file grow instead.
    """

    def __init__(self, folder: Path, size_mb: int) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self._mounted = os.geteuid() == 0 and _run(
            "mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "tmpfs", str(folder)
        )
        self._limited: list[tuple[int, tuple[int, int]]] = []

    @property
    def kind(self) -> str:
        """By what it is filled."""
        return "file system" if self._mounted else "limit of file size"

    def fill(self, pids: list[int]) -> None:
        """From now on nothing more can be written."""
        if not self._mounted:
            for pid in pids:
                with suppress(ProcessLookupError):
                    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
                    resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, before[1]))
                    self._limited.append((pid, before))
            return
        with self._ballast.open("wb") as file, suppress(OSError):
            # Others write meanwhile: what is left is asked for again until nothing is.
            while free := shutil.disk_usage(self.folder).free:
                os.posix_fallocate(file.fileno(), file.seek(0, 2), free)
                file.seek(0, 2)

    def clear(self) -> None:
        """There is room again."""
        self._ballast.unlink(missing_ok=True)
        for pid, before in self._limited:
            with suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
        self._limited.clear()

    @property
    def _ballast(self) -> Path:
        return self.folder / "ballast"

    def close(self) -> None:
        """Gives the memory back."""
        self.clear()
        if self._mounted:
            _run("umount", "--lazy", str(self.folder))


def _run(*command: str) -> bool:
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
