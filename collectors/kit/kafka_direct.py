"""One record to the leader of its partition, without aiokafka's sender between.

A node sends one record a second; the sender's tasks, queues and schemas, made
for thousands, cost it more than the record does.  What is sent here bears the
producer's id and the partition's next sequence number, which goes on only when
the broker has acknowledged it.  After anything else the usual way sends the
record again under the same number, and the broker knows one that it has.

It is pressed with LZ4: Zstandard makes it a quarter smaller, and costs a node's
cold caches four times as much as making the whole batch.
"""

from __future__ import annotations

import asyncio
import os
import select
import struct
from collections.abc import Sequence
from io import BytesIO
from typing import Any, NamedTuple

import cramjam
from aiokafka.client import ConnectionGroup
from aiokafka.errors import KafkaError
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c
from aiokafka.structs import TopicPartition

from collectors.contract.bus import ARRIVAL_HEADER, Message
from collectors.kit.partitions import partition_of

_PRODUCE, _OLDEST, _NEWEST = 0, 3, 7
"""The request's key, and its versions that have this layout."""
_GROUP = ConnectionGroup.DEFAULT
_ALL_REPLICAS = -1
_NO_TRANSACTION = -1
_RECORD_FORMAT, _PLAIN, _LZ4, _ZSTD = 2, 0, 3, 4
_ATTRIBUTES_AT, _COUNTS_AT, _RECORDS_AT = 21, 23, 61
"""Of a batch: first its place (8 bytes), length (4), epoch and format (5) and check sum (4) over
what follows; then attributes (2), counts and times, records."""
_LENGTH_AT, _EPOCH_AT, _SUM_AT = 8, 12, 17
_FRAME = bytes.fromhex("04224d18604082")
"""An LZ4 frame's head: blocks of 64 KiB at most that stand alone, without check sums."""
_BLOCK, _SPARE = 2**16, 1024
_PARTS = ("_txn_manager", "client")
_CLIENT_PARTS = ("_conns", "_client_id", "cluster")
_SEQUENCE_PARTS = (
    "has_pid", "producer_id", "producer_epoch", "sequence_number", "increment_sequence_number",
)  # fmt: skip
_CONNECTION_PARTS = (
    "_handle_frame", "_next_correlation_id", "_reader", "_requests", "_versions", "_writer", "connected",
)  # fmt: skip
_AT_ONCE_MS, _LATER_AT_MOST = 40, 32
_LENGTH = 4
"""Of what follows, before each answer."""
_HEAD = struct.Struct(">ihhih")
"""Length, key, version, correlation, length of the client's name, which follows."""
_ORDER = struct.Struct(">hhiih")
"""Transaction (none), acknowledgements, time-out in ms, topics (1), length of the topic's name."""
_PART = struct.Struct(">iii")
"""Partitions (1), the partition, length of the batch."""
_TOPICS = struct.Struct(">ih")
_RESULT = struct.Struct(">iih")
"""Partitions, the partition, its error."""


def _headers(message: Message) -> list[tuple[str, bytes | None]]:
    if message.arrival_us is None:
        return []
    return [(ARRIVAL_HEADER, message.arrival_us.to_bytes(8, "little"))]


def fill(batch: Any, messages: Sequence[Message]) -> bool:
    """Puts records into one of the client's batches; whether all have found room."""
    for message in messages:
        added = batch.append(
            timestamp=None, key=message.key, value=message.value, headers=_headers(message)
        )
        if added is None:
            return False
    return True


def pressed(batch: bytes) -> bytes:
    """A plain batch of up to 64 KiB of records as one with LZ4; as it is where that gains nothing."""
    records = batch[_RECORDS_AT:]
    block = bytes(cramjam.lz4.compress_block(records, store_size=False))
    frame = b"".join((_FRAME, len(block).to_bytes(4, "little"), block, bytes(4)))
    if len(frame) >= len(records):
        return batch
    tail = b"".join((_LZ4.to_bytes(2, "big"), batch[_COUNTS_AT:_RECORDS_AT], frame))
    length = len(tail) + _ATTRIBUTES_AT - _EPOCH_AT
    return b"".join((
        batch[:_LENGTH_AT], length.to_bytes(4, "big"), batch[_EPOCH_AT:_SUM_AT],
        calc_crc32c(tail).to_bytes(4, "big"), tail,
    ))  # fmt: skip


class _Correlated(NamedTuple):
    correlation_id: int


class _Code:
    """The error of the one partition in an answer, 0 for none."""

    @staticmethod
    def decode(answer: BytesIO) -> int:
        data = answer.getbuffer()
        _, name = _TOPICS.unpack_from(data, 4)
        return int(_RESULT.unpack_from(data, 4 + _TOPICS.size + name)[2])


class _Request:
    """What a connection asks of a request that waits for its answer."""

    RESPONSE_TYPE = _Code

    @staticmethod
    def parse_response_header(answer: BytesIO) -> _Correlated:
        return _Correlated(int.from_bytes(answer.read(4), "big", signed=True))


_REQUEST = _Request()


def _is_plain_and_idle(connection: Any) -> bool:
    """Whether the next bytes that it gives are the answer to what is written next, as they are."""
    if connection._requests:  # noqa: SLF001
        return False
    transport = connection._writer.transport  # noqa: SLF001
    return not transport.is_closing() and transport.get_extra_info("sslcontext") is None


def _answered(connection: Any, code: asyncio.Future[int]) -> bool:
    """Waits for the answer in this thread; whether it is there.

    The loop stands still meanwhile, so nobody else reads; what is not a whole
    answer is handed to the connection's own reader.
    """
    transport = connection._writer.transport  # noqa: SLF001
    here = transport.get_extra_info("socket").fileno()
    waiting = select.poll()
    waiting.register(here, select.POLLIN)
    if transport.get_write_buffer_size() or not waiting.poll(_AT_ONCE_MS):
        return False
    try:
        data = os.read(here, _BLOCK)
    except OSError:  # its reader finds the same
        return False
    if len(data) >= _LENGTH and int.from_bytes(data[:_LENGTH], "big") == len(data) - _LENGTH:
        try:
            connection._handle_frame(data[_LENGTH:])  # noqa: SLF001
        except struct.error:  # no answer at all: as its reader's task would end
            connection.close()
    elif data:
        connection._reader.feed_data(data)  # noqa: SLF001
    return code.done()


def _speaks(connection: Any) -> bool:
    """Whether a connection has the parts that are used, and the broker a version that is known."""
    if not all(hasattr(connection, name) for name in _CONNECTION_PARTS):
        return False
    oldest, newest = connection._versions.get(_PRODUCE, (0, 0))  # noqa: SLF001
    return oldest <= _NEWEST and newest >= _OLDEST


class _Asked(NamedTuple):
    """A request that has been written."""

    message: Message
    target: TopicPartition
    connection: Any
    code: asyncio.Future[int]
    """The partition's error, once it is answered."""


class DirectWay:
    """The short way through one client, which is idempotent and sends nothing else meanwhile.

    It uses parts of the client that are not promised: `works` is false of a
    client without them, and then nothing goes this way.
    """

    def __init__(self, client: Any, timeout_ms: int) -> None:
        self._client: Any = getattr(client, "client", None)
        self._timeout_ms = timeout_ms
        self._known: Any = None
        self._speaks = False
        """Whether the connection that was last used can be used so."""
        self._begun: _Asked | None = None
        self._later, self._pause = 0, 1
        """Records that are still to go without waiting for the broker in the loop's thread, and
        how many it will be after the next slow answer."""
        self._sequences: Any = getattr(client, "_txn_manager", None)
        self.works = (
            all(hasattr(client, name) for name in _PARTS)
            and all(hasattr(self._client, name) for name in _CLIENT_PARTS)
            and all(hasattr(self._sequences, name) for name in _SEQUENCE_PARTS)
        )

    @property
    def begun(self) -> Message | None:
        """What `send_at_once` has written and has no answer to yet."""
        return None if self._begun is None else self._begun.message

    def forget(self) -> None:
        """The client goes, and with it what was begun."""
        if self._begun is not None:
            self._begun.code.cancel()
            self._begun = None

    async def send(self, message: Message) -> bool:
        """Whether the broker has acknowledged it.  If not, nothing is known of it, and it must be
        the next that is sent to its partition, by the usual way.

        What was begun at once is not written again, but waited for.
        """
        asked, self._begun = self._begun, None
        if asked is None or asked.message is not message:
            asked = self._ask(message)
        if asked is None:
            return False
        try:
            await asked.code
        except (KafkaError, struct.error):
            return False
        return self._settled(asked)

    def send_at_once(self, message: Message) -> bool:
        """As `send`, without the loop, which would cost more than the record: waits for the
        broker in this thread, some milliseconds at most, and after a slower answer not at all for
        some records: twice as many each time."""
        if self._later:
            self._later -= 1
            return False
        asked = self._ask(message, alone=True)
        if asked is None:
            return False
        if not _answered(asked.connection, asked.code):
            self._begun, self._later = asked, self._pause
            self._pause = min(2 * self._pause, _LATER_AT_MOST)
            return False
        self._pause = 1
        return asked.code.exception() is None and self._settled(asked)

    def _settled(self, asked: _Asked) -> bool:
        if asked.code.result():
            return False
        self._sequences.increment_sequence_number(asked.target, 1)
        return True

    def _ask(self, message: Message, *, alone: bool = False) -> _Asked | None:
        """Writes a request; `alone`: only where nothing else is under way on an open connection."""
        sequences, cluster = self._sequences, self._client.cluster
        partitions = cluster.partitions_for_topic(message.topic)
        if not partitions or not sequences.has_pid():
            return None
        target = TopicPartition(message.topic, partition_of(message.key, len(partitions)))
        connection = self._connection(cluster.leader_for_partition(target))
        if connection is None or (alone and not _is_plain_and_idle(connection)):
            return None
        code = self._write(connection, target, self._batch(target, message))
        return _Asked(message, target, connection, code)

    def _connection(self, leader: int | None) -> Any:
        """The usual way's connection to the leader, where there is one that can be used."""
        connection = self._client._conns.get((leader, _GROUP))  # noqa: SLF001
        if connection is not self._known:
            self._known, self._speaks = connection, _speaks(connection)
        return connection if self._speaks and connection.connected() else None

    def _batch(self, target: TopicPartition, message: Message) -> bytes:
        sequences = self._sequences
        small = len(message.key) + len(message.value) < _BLOCK - _SPARE
        builder = DefaultRecordBatchBuilder(
            _RECORD_FORMAT, _PLAIN if small else _ZSTD, 0, sequences.producer_id, sequences.producer_epoch,
            sequences.sequence_number(target), 2**31 - 1,
        )  # fmt: skip
        builder.append(0, None, message.key, message.value, _headers(message))
        batch = bytes(builder.build())
        return pressed(batch) if small else batch

    def _write(self, connection: Any, target: TopicPartition, batch: bytes) -> asyncio.Future[int]:
        """Writes the request; its answer is the partition's error code."""
        client, topic = self._client._client_id.encode(), target.topic.encode()  # noqa: SLF001
        version = min(_NEWEST, connection._versions[_PRODUCE][1])  # noqa: SLF001
        number = connection._next_correlation_id()  # noqa: SLF001
        order = _ORDER.pack(_NO_TRANSACTION, _ALL_REPLICAS, self._timeout_ms, 1, len(topic))
        part = _PART.pack(1, target.partition, len(batch))
        size = sum(map(len, (client, order, topic, part, batch))) + _HEAD.size - 4
        head = _HEAD.pack(size, _PRODUCE, version, number, len(client))
        connection._writer.write(b"".join((head, client, order, topic, part, batch)))  # noqa: SLF001
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        connection._requests.append((number, _REQUEST, answer))  # noqa: SLF001
        return answer
