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
