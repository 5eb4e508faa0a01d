"""The oracle as the self-test sees it, and a producer that tells it all that was sent.

The oracle is found by entry point, since nothing of it may be known here but
what it answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import msgspec

from collectors.contract.bus import Message, Producer
from collectors.contract.inventory import Inventory
from collectors.contract.topics import Allocation
from collectors.kit import plugins
from pipeline.selftest.edges import Edges
from pipeline.selftest.names import Accounts

Point = tuple[int, int]
MinuteKey = tuple[str, int, int, int, int]
"""Node, slot, minute, run, label epoch."""
LedgerKey = tuple[int, str, int, str, str, str, str]
"""Hour, node, slot, owner kind, tenant, project, job."""


class Truth(Protocol):
    """What the records that were sent can say."""

    @property
    def samples(self) -> Mapping[str, int]:
        """Distinct records per node that count."""
        ...

    @property
    def rejected(self) -> Mapping[str, int]:
        """Records refused, by reason."""
        ...

    @property
    def repeated(self) -> int:
        """Records that had come before."""
        ...

    @property
    def rows(self) -> Mapping[Any, Mapping[str, int]]:
        """The ledger by LedgerKey."""
        ...


class Oracle(Protocol):
    """See `collectors.simulator.oracle`."""

    def add_record(self, data: bytes, bus_us: int) -> None:
        """Takes a GPU record with its bus time."""
        ...

    def add_allocation(self, value: bytes) -> None:
        """Takes an allocation record."""
        ...

    def take_tenants(self, text: str) -> None:
        """Takes the text of a tenants file."""
        ...

    def minutes(self) -> Iterator[tuple[Any, Mapping[str, tuple[Any, Any]]]]:
        """Per MinuteKey the first and last point of each counter that it has."""
        ...

    def finish(self) -> Truth:
        """The truth over all that was taken."""
        ...


def make_oracle(inventory: Inventory) -> Oracle:
    """The oracle of this installation.  Raises MissingPartError."""
    factory: Callable[[Inventory], Oracle] = plugins.load("petawatch.oracle", "observable")
    return factory(inventory)


class TellingProducer:
    """A producer that, once a send is acknowledged, tells the oracle of it.

    Messages must carry their arrival, as those of a simulation faster than life do.
    """

    def __init__(
        self,
        inner: Producer,
        oracle: Oracle,
        gpu: str,
        alloc: str,
        accounts: Accounts,
        edges: Edges,
    ) -> None:
        """`accounts` names holders as a scheduler would, before anybody but `edges` is told."""
        self._inner = inner
        self._accounts, self._edges = accounts, edges
        self._oracle = oracle
        self._gpu, self._alloc = gpu, alloc
        self.sent: dict[str, int] = {}

    async def start(self) -> None:
        """Starts the producer behind."""
        await self._inner.start()

    async def send(self, messages: Sequence[Message]) -> None:
        """Sends, then tells."""
        for one in messages:
            if one.topic == self._alloc:
                self._edges.tell(msgspec.json.decode(one.value, type=Allocation))
        messages = [
            replace(one, value=self._accounts.told(one.value)) if one.topic == self._alloc else one
            for one in messages
        ]
        await self._inner.send(messages)
        for message in messages:
            if message.topic == self._gpu and message.arrival_us is not None:
                self._oracle.add_record(message.value, message.arrival_us)
                node = message.key.decode()
                self.sent[node] = self.sent.get(node, 0) + 1
            elif message.topic == self._alloc:
                self._oracle.add_allocation(message.value)

    async def stop(self) -> None:
        """Stops the producer behind."""
        await self._inner.stop()
