"""The bus on Kafka: topics, health, and the making of producers and consumers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from aiokafka.admin import NewTopic
from aiokafka.errors import (
    KafkaError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
    for_code,
)

from collectors.contract import topics as topic_names
from collectors.contract.bus import TopicSpec
from collectors.kit.clock import Clock
from collectors.kit.kafka_producer import KafkaProducer
from pipeline.bus.kafka_admin import administrator, are_gone, have_leaders
from pipeline.bus.kafka_consumer import KafkaConsumer

MAX_MESSAGE_BYTES = 5 * 2**20
"""A batch as the broker takes it: the port's largest record and its framing fit in."""

_COMPACTION_LAG_MS = 3_600_000
_REPLICAS = 3


class KafkaBus:
    """See the port, `collectors.contract.bus.Bus`.

    `bootstrap` is HOST:PORT[,HOST:PORT].  A member that the broker has not
    heard of for `session_timeout_s` is expelled; `rebalance_timeout_s` is how
    long a member may take in `on_revoked`; `timeout_s` bounds every question.
    """

    def __init__(
        self,
        bootstrap: str,
        *,
        clock: Clock,
        client_id: str = "petawatch",
        session_timeout_s: float = 10.0,
        rebalance_timeout_s: float = 60.0,
        timeout_s: float = 10.0,
    ) -> None:
        self._bootstrap = bootstrap
        self._clock = clock
        self._client_id = client_id
        self._session_timeout_s = session_timeout_s
        self._rebalance_timeout_s = rebalance_timeout_s
        self._timeout_s = timeout_s

    def producer(self, *, max_request_bytes: int = 4 * 2**20) -> KafkaProducer:
        """A producer that is not started yet."""
        return KafkaProducer(
            self._bootstrap,
            client_id=self._client_id,
            max_request_bytes=max_request_bytes,
            timeout_s=self._timeout_s,
        )

    def consumer(
        self, topics: Sequence[str], group: str | None, *, latest: bool = False
    ) -> KafkaConsumer:
        """A consumer that is not started yet; one that reads GPU records waits for large fetches."""
        bulk = any(topic.endswith(topic_names.GPU) for topic in topics)
        options: dict[str, Any] = {
            "bootstrap_servers": self._bootstrap,
            "client_id": self._client_id,
            "session_timeout_ms": int(self._session_timeout_s * 1000),
            "heartbeat_interval_ms": int(self._session_timeout_s * 1000 / 3),
            "rebalance_timeout_ms": int(self._rebalance_timeout_s * 1000),
            "request_timeout_ms": int(max(self._timeout_s, self._rebalance_timeout_s + 5) * 1000),
            "max_partition_fetch_bytes": 2 * 2**20,
            "fetch_max_bytes": 16 * 2**20,
            "fetch_max_wait_ms": 250,
            "fetch_min_bytes": 2**20 if bulk else 1,
        }
        patience_s = self._session_timeout_s + self._rebalance_timeout_s + self._timeout_s
        return KafkaConsumer(
            topics,
            group,
            latest=latest,
            timeout_s=self._timeout_s,
            join_timeout_s=patience_s,
            options=options,
        )

    async def create_topics(self, topics: Sequence[TopicSpec]) -> None:
        """Creates those that are not there, and waits until they have leaders.  Raises BusUnavailableError."""
        async with administrator(self._bootstrap, self._timeout_s) as admin:
            replicas = min(_REPLICAS, len((await admin.describe_cluster())["brokers"]))
            wanted = [_new_topic(spec, replicas) for spec in topics]
            answer = await admin.create_topics(wanted)
            _check(answer.topic_errors, TopicAlreadyExistsError)
            names = [spec.name for spec in topics]
            await self._until(lambda: have_leaders(admin, names))

    async def delete_topics(self, names: Sequence[str]) -> None:
        """Deletes those that are there; the broker forgets what groups committed for them."""
        async with administrator(self._bootstrap, self._timeout_s) as admin:
            answer = await admin.delete_topics(list(names))
            _check(answer.topic_error_codes, UnknownTopicOrPartitionError)
            await self._until(lambda: are_gone(admin, names))

    async def health(self) -> dict[str, str]:
        """What answers (the protocol does not tell a release); raises BusUnavailableError."""
        async with administrator(self._bootstrap, self._timeout_s) as admin:
            cluster = await admin.describe_cluster()
        return {
            "bus": "kafka",
            "brokers": ", ".join(f"{one['host']}:{one['port']}" for one in cluster["brokers"]),
            "cluster": str(cluster["cluster_id"]),
        }

    async def close(self) -> None:
        """Nothing is held open: producers and consumers have connections of their own."""

    async def _until(self, true: Callable[[], Awaitable[bool]]) -> None:
        while not await true():
            await self._clock.sleep(0.05)


def _new_topic(spec: TopicSpec, replicas: int) -> Any:
    """A topic's bytes are shared out evenly over its partitions; segments are small enough for both bounds."""
    retention_bytes = max(1, spec.retention_bytes // spec.partitions)
    configs = {
        "cleanup.policy": "compact,delete" if spec.compacted else "delete",
        "message.timestamp.type": "LogAppendTime",
        "max.message.bytes": MAX_MESSAGE_BYTES,
        "retention.ms": spec.retention_s * 1000,
        "retention.bytes": retention_bytes,
        "segment.bytes": min(2**28, max(2**20, retention_bytes // 4)),
        "segment.ms": max(1000, spec.retention_s * 1000 // 4),
        **({"min.compaction.lag.ms": _COMPACTION_LAG_MS} if spec.compacted else {}),
    }
    return NewTopic(
        spec.name,
        spec.partitions,
        replicas,
        topic_configs={name: str(value) for name, value in configs.items()},
    )


def _check(outcomes: Sequence[Sequence[Any]], well: type[KafkaError]) -> None:
    """Raises the first error that is not `well`; outcomes are (topic, code, …)."""
    for topic, code, *_ in outcomes:
        error = for_code(code)
        if code != 0 and error is not well:
            raise error(f"{topic}: {error.__name__}")
