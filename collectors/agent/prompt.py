"""The way past the queue, for the one record a second that a node has while all is well."""

from __future__ import annotations

from collectors.agent.reach import Reach
from collectors.agent.spool import Spool
from collectors.contract.bus import Message, Producer, PromptProducer


class Prompt:
    """A record through the queue costs a task several turns of the loop, and the broker's answer
    more of them: nearly as much as reading three GPUs."""

    def __init__(self, producer: Producer, reach: Reach, spool: Spool | None) -> None:
        self._producer = producer if isinstance(producer, PromptProducer) else None
        self._reach, self._spool = reach, spool

    def sends(self, message: Message) -> bool:
        """Whether the bus has taken it at once; never tried where something older waits on disk,
        or the bus is not well.  If not, it must be the next that is sent."""
        if self._producer is None or self._reach.is_away or message.topic in self._reach.missing():
            return False
        if self._spool is not None and (self._spool.left or self._spool.reason):
            return False
        return self._producer.send_at_once(message)
