"""How a fleet's exporters are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ScrapeSettings:
    """Times in seconds.  Files that are None are not kept."""

    interval_s: float = 15.0
    timeout_s: float = 10.0
    at_once: int = 64
    """Pages asked for at the same time, at most."""
    reload_s: float = 10.0
    """How often the file of targets is looked at."""
    ca: Path | None = None
    spool: Path | None = None
    state: Path | None = None
    topic_prefix: str = ""

    def __post_init__(self) -> None:
        """Raises ValueError for what cannot be kept."""
        if not 1 <= self.interval_s <= 600:
            raise ValueError(f"exporters are read every 1 to 600 s, not {self.interval_s:g}")
        if not 0 < self.timeout_s <= self.interval_s:
            raise ValueError("a page must come within the time between two: a lower timeout")
