"""One line per event on standard error: time, level, part, event, key=value.

Modules log `"event key=%s", value`; what may be a secret is not logged at all,
and what looks like one in an address is blotted out here as a last resort.
"""

from __future__ import annotations

import logging
import re
import sys
from datetime import UTC, datetime

_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+(?=@)|(?<=[Tt]oken[= ])\S+|(?<=[Pp]assword[= ])\S+")


class LineFormatter(logging.Formatter):
    """`2026-11-24T06:00:00.000Z info pipeline.store flushed rows=1952`, without line breaks."""

    def format(self, record: logging.LogRecord) -> str:
        """One record as one line; an exception follows as `error=…` and, when debugging, in full."""
        stamp = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            text += f" error={type(error).__name__}: {error}"
        text = _CREDENTIALS.sub("…", text).replace("\n", " ⏎ ")
        line = f"{stamp}.{int(record.msecs):03d}Z {record.levelname.lower()} {record.name} {text}"
        if record.exc_info and logging.getLogger().isEnabledFor(logging.DEBUG):
            line += "\n" + self.formatException(record.exc_info)
        return line


def set_up_logging(level: str = "info") -> None:
    """Sends everything to standard error; raises ValueError for an unknown level."""
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"no such log level: {level!r}; write debug, info, warning or error")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter())
    logging.basicConfig(level=number, handlers=[handler], force=True)
    # The clients' own chatter is news only when something is being searched for.
    for name in ("aiokafka", "httpx", "uvicorn", "alembic", "asyncio"):
        logging.getLogger(name).setLevel(max(number, logging.WARNING))
