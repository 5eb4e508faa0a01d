"""What an outbox has done with its messages."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class OutboxCounts:
    """What became of every message.

    sent + refused + spooled + dropped + queued = put + unspooled, at any time;
    and spooled + found in the file = unspooled + dropped there + left in it.
    """

    put: int = 0
    sent: int = 0
    spooled: int = 0
    unspooled: int = 0
    refused: int = 0
    dropped: int = 0

    def undelivered(self, left: int) -> int:
        """Messages put of which it is not known that the bus has them, where `left` are in memory
        or on disk, those of earlier processes included."""
        if not left + self.dropped + self.refused:
            return 0
        return max(0, self.put - (self.sent - self.unspooled))
