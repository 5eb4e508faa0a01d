"""What aiokafka's consumer needs around it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from typing import Any

from aiokafka import TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.errors import KafkaError


class Listener(ConsumerRebalanceListener):
    """The client's way to call a consumer; it tells both, also of empty assignments."""

    def __init__(
        self, revoke: Callable[[], Awaitable[None]], assign: Callable[[], Awaitable[None]]
    ) -> None:
        self._revoke = revoke
        self._assign = assign

    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> Any:  # noqa: ARG002
        """What the client is to await."""
        return self._revoke()

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> Any:  # noqa: ARG002
        """What the client is to await."""
        return self._assign()


async def close(client: Any, timeout_s: float) -> None:
    """Stops a consumer in `timeout_s` and a little, whatever the broker does.

    While the broker is away the client's stop ends half-way with the
    cancellation of one of its own fetches, or waits for an answer; then its
    connections are closed here.
    """
    closing = asyncio.create_task(client.stop())
    await asyncio.wait([closing], timeout=timeout_s)
    if not closing.done():
        closing.cancel()
        await asyncio.wait([closing], timeout=1.0)
    if not closing.done() or closing.cancelled() or closing.exception() is not None:
        with suppress(KafkaError, OSError):
            await client._client.close()  # noqa: SLF001


def reason(error: BaseException) -> str:
    """An error in words."""
    return str(error) or type(error).__name__
