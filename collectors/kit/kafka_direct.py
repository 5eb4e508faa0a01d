"""One record to the leader of its partition, without aiokafka's sender between.

A node sends one record a second; the sender's tasks and queues, made for
thousands, cost it more than the record does.  What is sent here bears the
producer's id and the partition's next sequence number, which goes on only when
the broker has acknowledged it.  After anything else the usual way sends the
record again under the same number, and the broker knows one that it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiokafka.errors import KafkaError
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.structs import TopicPartition

from collectors.contract.bus import ARRIVAL_HEADER, Message
from collectors.kit.partitions import partition_of

_ALL_REPLICAS = -1
_PARTS = ("_txn_manager", "client", "create_batch")
_SEQUENCE_PARTS = (
    "has_pid", "producer_id", "producer_epoch", "sequence_number", "increment_sequence_number",
)  # fmt: skip


def fill(batch: Any, messages: Sequence[Message]) -> bool:
    """Puts records into one of the client's batches; whether all have found room."""
    for message in messages:
        headers: list[tuple[str, bytes]] = []
        if message.arrival_us is not None:
            headers.append((ARRIVAL_HEADER, message.arrival_us.to_bytes(8, "little")))
        added = batch.append(timestamp=None, key=message.key, value=message.value, headers=headers)
        if added is None:
            return False
    return True


class DirectWay:
    """The short way through one client, which is idempotent and sends nothing else meanwhile.

    It uses parts of the client that are not promised: `works` is false of a
    client without them, and then nothing goes this way.
    """

    def __init__(self, client: Any, timeout_ms: int) -> None:
        self._client, self._timeout_ms = client, timeout_ms
        self._sequences: Any = getattr(client, "_txn_manager", None)
        self.works = all(hasattr(client, name) for name in _PARTS) and all(
            hasattr(self._sequences, name) for name in _SEQUENCE_PARTS
        )

    async def send(self, message: Message) -> bool:
        """Whether the broker has acknowledged it.  If not, nothing is known of it, and it must be
        the next that is sent to its partition, by the usual way."""
        sequences = self._sequences
        cluster = self._client.client.cluster
        partitions = cluster.partitions_for_topic(message.topic)
        if not partitions or not sequences.has_pid():
            return False
        target = TopicPartition(message.topic, partition_of(message.key, len(partitions)))
        leader = cluster.leader_for_partition(target)
        batch = self._client.create_batch()
        if leader is None or leader < 0 or not fill(batch, [message]):
            return False
        batch._set_producer_state(  # noqa: SLF001
            sequences.producer_id, sequences.producer_epoch, sequences.sequence_number(target)
        )
        data = batch._build()  # noqa: SLF001
        topics = [(target.topic, [(target.partition, data)])]
        request = ProduceRequest(None, _ALL_REPLICAS, self._timeout_ms, topics)
        try:
            answer = await self._client.client.send(leader, request)
        except KafkaError:
            return False
        (_, ((_, code, *_),)), *_ = answer.topics
        if code:
            return False
        sequences.increment_sequence_number(target, 1)
        return True
