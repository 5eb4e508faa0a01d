"""Files in which a scheduler's prolog says who has which GPU: one file read at a time.

Two forms stand in one folder (docs/attribution.md):

- that of DCGM exporter's `--hpc-job-mapping-dir`: a file per GPU, named by its number (and by
  `.` and the instance's), a job per line;
- ours: `*.json`, one per job or GPU, as `MappingRecord`.
"""

from __future__ import annotations

import datetime as dt
import os
import re
import stat
from pathlib import Path
from typing import NamedTuple

import msgspec

PLAIN_NAME = re.compile(r"\d{1,4}(\.\d{1,3})?")
_JOB = re.compile(r"[A-Za-z0-9_.:@+\[\]/-]{1,64}")
_WORD = re.compile(r"[^\x00-\x1f\x7f]{0,128}")
_SCHEDULER = re.compile(r"[a-z][a-z0-9-]{0,15}")
_MOST_BYTES = 65_536
_MOST_JOBS = 64


class MappingError(ValueError):
    """A file that says nothing that could be believed; the message says why."""


class MappingRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """Our form: who has these GPUs (or MIG instances of them)."""

    job: int | str
    gpu: int | str | list[int | str] | None = None
    """UUID, `/dev/nvidia` number or PCI address; several in a list."""
    mig: str | list[str] | None = None
    """`MIG-…` UUIDs; or `gi` or `gi/ci` of the one `gpu`.  None: the whole GPUs."""
    sluid: str | None = None
    user: str | None = None
    account: str | None = None
    start: dt.datetime | None = None
    """With its zone."""
    end: dt.datetime | None = None
    """Likewise; only of a job that is over, in the folder `ended`."""
    boot: str | None = None
    """The kernel's boot id: of another boot is a job that is over."""
    shared: bool | None = None
    """Whether the scheduler gives the GPU to other jobs at the same time (shards, MPS); None is
    not known."""
    scheduler: str = "slurm"

    @property
    def gpus(self) -> list[str]:
        """All of `gpu` as text."""
        given = self.gpu if isinstance(self.gpu, list) else [self.gpu]
        return [str(one) for one in given if one is not None]

    @property
    def instances(self) -> list[str]:
        """All of `mig`."""
        given = self.mig if isinstance(self.mig, list) else [self.mig]
        return [one for one in given if one is not None]


class Stamp(NamedTuple):
    """Changes whenever a file does."""

    inode: int
    size: int
    changed_ns: int


def read_file(path: str) -> tuple[Stamp, bytes]:
    """The file's stamp and content.  Raises OSError; MappingError for one that anybody may have written."""
    folder = Path(path).parent.stat()
    # Of a pipe, which would be waited for, nothing is read.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123
        told = os.fstat(file.fileno())
        if not stat.S_ISREG(told.st_mode):
            raise MappingError("no plain file")
        if told.st_mode & stat.S_IWOTH or told.st_uid not in {0, os.geteuid(), folder.st_uid}:
            raise MappingError("others than root and the folder's owner can write it")
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise MappingError(f"larger than {_MOST_BYTES} bytes")
    return Stamp(told.st_ino, told.st_size, told.st_mtime_ns), data


def parse_record(data: bytes) -> MappingRecord:
    """A file of our form.  Raises MappingError."""
    try:
        record = msgspec.json.decode(data, type=MappingRecord)
    except msgspec.MsgspecError as error:
        raise MappingError(f"not as docs/attribution.md says: {error}") from None
    if not _JOB.fullmatch(str(record.job)) or not _SCHEDULER.fullmatch(record.scheduler):
        raise MappingError("`job` and `scheduler` must be short words without blanks")
    times = {"start": record.start, "end": record.end}
    for name, time in times.items():
        if time is not None and time.tzinfo is None:
            raise MappingError(f"`{name}` has no time zone: write 2026-01-31T12:00:00Z")
    if not record.gpus and not record.instances:
        raise MappingError("names neither `gpu` nor `mig`")
    words = (record.user, record.account, record.sluid)
    if not all(word is None or _WORD.fullmatch(word) for word in words):
        raise MappingError("`user`, `account` or `sluid` is no name")
    return record


def parse_lines(data: bytes, *, settled: bool) -> list[str]:
    """The jobs of a file of the exporter's form, each once.

    A last line without an end may be half written: it counts once the file is
    `settled`, the same at two looks.  Raises MappingError.
    """
    text = data.decode("utf-8", "replace")
    whole, _, rest = text.rpartition("\n")
    lines = [line.strip() for line in (whole + "\n" + rest if settled else whole).split("\n")]
    jobs = list(dict.fromkeys(line for line in lines if line))
    if wrong := next((job for job in jobs if not _JOB.fullmatch(job)), None):
        raise MappingError(f"not a job's id: {wrong[:32]!r}")
    if len(jobs) > _MOST_JOBS:
        raise MappingError(f"{len(jobs)} jobs on one GPU")
    return jobs
