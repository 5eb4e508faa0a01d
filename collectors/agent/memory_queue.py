"""What waits in memory for the bus or the disk: bounded, the oldest go first."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from collectors.agent.spool import Kept
from collectors.contract.bus import Message

MEMORY_BYTES = 8 * 2**20
_OVERHEAD_BYTES = 200


@dataclass(slots=True)
class Flight:
    """Messages that are being sent; `kept` is where they stand on disk meanwhile."""

    messages: list[Message] = field(default_factory=list[Message])
    kept: Kept | None = None
    is_spooled: bool = False
    """They come from the spool, and are in it until they are sent."""


class MemoryQueue:
    """Messages in order, at most `most` and `most_bytes` of them."""

    def __init__(self, most: int, most_bytes: int = MEMORY_BYTES) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._messages: deque[Message] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        """How many wait."""
        return len(self._messages)

    def put(self, message: Message) -> int:
        """Adds one; returns how many were dropped for it."""
        self._messages.append(message)
        self._bytes += _size(message)
        return self._fit()

    def put_back(self, messages: Sequence[Message]) -> int:
        """Puts what was taken at the front again; returns how many were dropped for it."""
        self._messages.extendleft(reversed(messages))
        self._bytes += sum(map(_size, messages))
        return self._fit()

    def take(self, most: int, but: tuple[str, ...]) -> list[Message]:
        """The oldest, in order, without those of topics with such an ending."""
        if not but:
            taken = [self._messages.popleft() for _ in range(min(most, len(self._messages)))]
        else:
            taken = [one for one in self._messages if not one.topic.endswith(but)][:most]
            gone = set(map(id, taken))
            self._messages = deque(one for one in self._messages if id(one) not in gone)
        self._bytes -= sum(map(_size, taken))
        return taken

    def take_all(self) -> list[Message]:
        """All, in order."""
        return self.take(len(self._messages), ())

    def _fit(self) -> int:
        count = 0
        while len(self._messages) > self._most or self._bytes > self._most_bytes:
            self._bytes -= _size(self._messages.popleft())
            count += 1
        return count


def _size(message: Message) -> int:
    return len(message.key) + len(message.value) + _OVERHEAD_BYTES
