"""Runs Slurm's commands: no shell, a time limit, a bound on the answer."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping, Sequence

_MOST_BYTES = 512 * 2**20
_PIECE_BYTES = 2**20
_MOST_COMPLAINT_BYTES = 4_096


class SlurmAwayError(RuntimeError):
    """A command gave no answer now; try again later."""


class SlurmTools:
    """The commands of one cluster, found by `path`."""

    def __init__(self, *, timeout_s: float, variables: Mapping[str, str] | None = None) -> None:
        self._timeout_s = timeout_s
        # Times as seconds since 1970, whatever the machine's zone and language are.
        fixed = {"LC_ALL": "C.UTF-8", "TZ": "UTC", "SLURM_TIME_FORMAT": "%s"}
        # A person's habits (SQUEUE_FORMAT, SACCT_FORMAT, …) must not change an answer.
        kept = {
            name: value
            for name, value in os.environ.items()
            if name == "SLURM_CONF" or not name.startswith(("SLURM_", "SQUEUE_", "SACCT_"))
        }
        self._environ = {**kept, **(variables or {}), **fixed}

    async def run(self, command: Sequence[str]) -> bytes:
        """A command's output.  Raises SlurmAwayError with its last words."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._run(command)
        except TimeoutError:
            raise SlurmAwayError(f"{command[0]}: no answer within {self._timeout_s:g} s") from None
        except FileNotFoundError:
            raise SlurmAwayError(f"{command[0]} is not installed here") from None
        except OSError as error:
            raise SlurmAwayError(f"{command[0]}: {error.strerror}") from error

    async def _run(self, command: Sequence[str]) -> bytes:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe, env=self._environ
        )
        try:
            if process.stdout is None or process.stderr is None:
                raise SlurmAwayError(f"{command[0]}: no pipe")
            complaint = asyncio.create_task(_tail(process.stderr))
            data = await _all(process.stdout, command[0])
            said = (await complaint).decode("utf-8", "replace").strip()
            status = await process.wait()
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if status != 0:
            last = said.splitlines()[-1] if said else f"exit status {status}"
            raise SlurmAwayError(f"{command[0]}: {last}")
        return data


async def _all(stream: asyncio.StreamReader, name: str) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while piece := await stream.read(_PIECE_BYTES):
        size += len(piece)
        if size > _MOST_BYTES:
            raise SlurmAwayError(f"{name}: an answer above {_MOST_BYTES // 2**20} MiB")
        pieces.append(piece)
    return b"".join(pieces)


async def _tail(stream: asyncio.StreamReader) -> bytes:
    """The last words; the rest is read and dropped, so that the command never waits for us."""
    last = b""
    while piece := await stream.read(_PIECE_BYTES):
        last = (last + piece)[-_MOST_COMPLAINT_BYTES:]
    return last
