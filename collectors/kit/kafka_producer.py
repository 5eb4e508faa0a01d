"""Sends to Kafka through aiokafka: idempotent, acknowledged by all replicas, compressed.

The agent imports this module, so it imports little and knows nothing of consumers.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

from aiokafka.errors import (
    InvalidTimestampError,
    KafkaError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
)
from aiokafka.producer import AIOKafkaProducer

from collectors.contract.bus import (
    BusUnavailableError,
    Message,
    RefusedError,
    TopicMissingError,
)
from collectors.kit.kafka_direct import DirectWay, fill
from collectors.kit.partitions import partition_of

_BATCH_BYTES = 2**20
"""A batch is at most this long before compression, or one record."""

_RECORD_OVERHEAD_BYTES = 64
"""More than a record's framing and its arrival header take in a batch."""

_REFUSALS = (
    InvalidTimestampError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
)
"""The broker's words for a record that it will never take."""

_ADDRESS = re.compile(r"[\w.-]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}")
_GRACE_S = 0.5
_SEARCH_S = 2.0
"""A topic that does not show itself within it is missing; the client asks ten times a second."""
_Batch = list[Message]
_Queues = dict[tuple[str, int], deque[_Batch]]


class KafkaProducer:
    """See the port, `collectors.contract.bus.Producer`.

    A send takes `timeout_s` at most, and one runs at a time.  When it fails,
    the client is thrown away and the next send makes a new one: aiokafka's
    idempotent producer never gets past a batch that the broker refused, and
    would deliver a batch that was given up long after the caller sent it again.
    """

    def __init__(
        self,
        bootstrap: str,
        *,
        client_id: str = "petawatch",
        max_request_bytes: int = 4 * 2**20,
        timeout_s: float = 10.0,
    ) -> None:
        self._bootstrap = bootstrap
        self._client_id = client_id
        self._max_request_bytes = max_request_bytes
        self._timeout_s = timeout_s
        self._client: Any = None  # aiokafka is not typed
        self._direct: DirectWay | None = None
        self._sending = asyncio.Lock()

    async def start(self) -> None:
        """Connects.  Raises BusUnavailableError."""
        await self._exchange(self._connect)

    async def send(self, messages: Sequence[Message]) -> None:
        """Sends, and waits for all acknowledgements.

        Raises RefusedError for the guilty records, all others being
        acknowledged, and BusUnavailableError, after which any of them may have
        been taken or not.
        """
        refused: dict[str, list[Message]] = {}
        limit = self._max_request_bytes
        taken = [one for one in messages if len(one.key) + len(one.value) <= limit]
        if len(taken) < len(messages):
            refused[f"above {limit} bytes"] = [
                one for one in messages if len(one.key) + len(one.value) > limit
            ]
        await self._exchange(lambda: self._send(taken, refused))
        guilty = [message for some in refused.values() for message in some]
        if guilty:
            reasons = ", ".join(reason for reason, some in refused.items() if some)
            raise RefusedError(f"{len(guilty)} record(s) refused: {reasons}", guilty)

    def send_at_once(self, message: Message) -> bool:
        """See the port `PromptProducer`: the short way's exchange, where nothing else is sent."""
        direct = None if self._client is None or self._sending.locked() else self._direct
        if direct is None or not direct.works or direct.begun is not None:
            return False
        size = len(message.key) + len(message.value)
        return size <= self._max_request_bytes and direct.send_at_once(message)

    async def _send(self, messages: Sequence[Message], refused: dict[str, list[Message]]) -> None:
        """What was begun at once comes first, and alone, as it is under way in a batch of its own."""
        begun = None if self._direct is None else self._direct.begun
        if begun is None:
            await self._send_some(messages, refused)
        elif messages and messages[0] is begun:
            await self._send_some(messages[:1], refused)
            await self._send_some(messages[1:], refused)
        else:
            await self._abandon()
            await self._send_some(messages, refused)

    async def _send_some(
        self, messages: Sequence[Message], refused: dict[str, list[Message]]
    ) -> None:
        if len(messages) == 1 and await self._sent_directly(messages[0]):
            return
        queues = await self._queue(messages)
        while queues:
            await self._round(queues, refused)

    async def stop(self) -> None:
        """Closes; every send has been acknowledged or has failed by then."""
        async with self._sending:
            client, self._client = self._client, None
            if client is not None:
                await client.stop()

    async def _exchange(self, work: Callable[[], Awaitable[object]]) -> None:
        """One exchange with the broker at a time, each bounded; a failed one costs the client."""
        async with self._sending:
            try:
                async with asyncio.timeout(self._timeout_s):
                    await work()
            except TopicMissingError:
                await self._abandon()
                raise
            except (KafkaError, OSError, TimeoutError) as error:
                await self._abandon()
                reason = str(error) or f"no answer within {self._timeout_s:g} s"
                raise BusUnavailableError(f"Kafka at {self._bootstrap}: {reason}") from error
            except BaseException:
                await self._abandon()
                raise

    async def _connect(self) -> Any:
        if self._client is None:
            self._client = AIOKafkaProducer(
                bootstrap_servers=self._bootstrap,
                client_id=self._client_id,
                enable_idempotence=True,
                acks="all",
                compression_type="zstd",
                max_batch_size=_BATCH_BYTES,
                max_request_size=2**30,  # judged above, by the size of the record alone
                request_timeout_ms=int(self._timeout_s * 1000),
            )
            await self._client.start()
            self._direct = DirectWay(self._client, int(self._timeout_s * 1000))
        return self._client

    async def _sent_directly(self, message: Message) -> bool:
        """Whether a single record has gone the short way."""
        direct = None if self._client is None else self._direct
        return direct is not None and direct.works and await direct.send(message)

    async def _queue(self, messages: Sequence[Message]) -> _Queues:
        """The batches of each partition, in order."""
        client = await self._connect()
        counts = {
            topic: await self._partitions(client, topic)
            for topic in {one.topic for one in messages}
        }
        queues: _Queues = {}
        sizes: dict[tuple[str, int], int] = {}
        for message in messages:
            target = (message.topic, partition_of(message.key, counts[message.topic]))
            size = len(message.key) + len(message.value) + _RECORD_OVERHEAD_BYTES
            queue = queues.setdefault(target, deque())
            sizes[target] = sizes.get(target, 0) + size
            if not queue or sizes[target] > _BATCH_BYTES:
                queue.append([])
                sizes[target] = size
            queue[-1].append(message)
        return queues

    async def _partitions(self, client: Any, topic: str) -> int:
        try:
            async with asyncio.timeout(min(self._timeout_s / 2, _SEARCH_S)):
                return len(await client.partitions_for(topic))
        except TimeoutError:
            raise TopicMissingError(topic) from None
        except TopicAuthorizationFailedError:
            why = "may not be written by this client; its access list must say so"
            raise TopicMissingError(topic, why) from None

    async def _round(self, queues: _Queues, refused: dict[str, list[Message]]) -> None:
        """Sends each partition's next batch; a refused one is halved until the guilty record is alone."""
        client = await self._connect()
        targets = list(queues)
        outcomes = await asyncio.gather(
            *(_deliver(client, target, queues[target][0]) for target in targets),
            return_exceptions=True,
        )
        for target, outcome in zip(targets, outcomes, strict=True):
            if outcome is not None and not isinstance(outcome, _REFUSALS):
                raise outcome
            queue = queues[target]
            batch = queue.popleft()
            if outcome is not None and len(batch) == 1:
                refused.setdefault(type(outcome).__name__, []).extend(batch)
            elif outcome is not None:
                middle = len(batch) // 2
                queue.extendleft((batch[middle:], batch[:middle]))
            if not queue:
                del queues[target]
        if any(outcomes):
            await self._abandon()

    async def _abandon(self) -> None:
        """Throws the client away with all that it still holds, without waiting for the broker."""
        client, self._client = self._client, None
        direct, self._direct = self._direct, None
        if direct is not None:
            direct.forget()
        if client is None:
            return
        # The client's own stop would wait until its batches are delivered.  What
        # the sender has in flight ends at a second cancellation, the time-out's.
        client._closed = True  # noqa: SLF001
        with suppress(KafkaError, TimeoutError):
            async with asyncio.timeout(_GRACE_S):
                await client._sender.close()  # noqa: SLF001
        with suppress(KafkaError, OSError):
            await client.client.close()


def open_producer(url: str) -> KafkaProducer:
    """The producer for kafka://HOST:PORT[,HOST:PORT].  Raises ValueError."""
    return KafkaProducer(brokers_of(url))


def brokers_of(url: str) -> str:
    """The brokers in kafka://HOST:PORT[,HOST:PORT].  Raises ValueError that says what to write."""
    brokers = url.removeprefix("kafka://").removesuffix("/")
    if brokers == url or not all(_ADDRESS.fullmatch(one) for one in brokers.split(",")):
        raise ValueError(f"bus {url!r}: write kafka://HOST:PORT[,HOST:PORT]")
    return brokers


async def _deliver(client: Any, target: tuple[str, int], messages: _Batch) -> None:
    """One batch to one partition.  Raises KafkaError."""
    batch = client.create_batch()
    if not fill(batch, messages):
        raise RuntimeError("a batch came out larger than it was reckoned")
    topic, partition = target
    await (await client.send_batch(batch, topic, partition=partition))
