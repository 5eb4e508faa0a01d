"""Questions to a Kafka cluster about its topics."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from collectors.contract.bus import BusUnavailableError


@asynccontextmanager
async def administrator(bootstrap: str, timeout_s: float) -> AsyncGenerator[Any]:
    """A connected administrator, for `timeout_s` at most; its failures are BusUnavailableError."""
    admin: Any = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        async with asyncio.timeout(timeout_s):
            await admin.start()
            yield admin
    except (KafkaError, OSError, TimeoutError) as error:
        reason = str(error) or f"no answer within {timeout_s:g} s"
        raise BusUnavailableError(f"Kafka at {bootstrap}: {reason}") from error
    finally:
        await admin.close()


async def have_leaders(admin: Any, names: Sequence[str]) -> bool:
    """Whether all partitions of some topics can be written."""
    return all(
        topic["error_code"] == 0 and all(one["leader"] >= 0 for one in topic["partitions"])
        for topic in await admin.describe_topics(list(names))
    )


async def are_gone(admin: Any, names: Sequence[str]) -> bool:
    """Whether none of some topics is there."""
    return set(names).isdisjoint(await admin.list_topics())


async def require_topics(bootstrap: str, names: Sequence[str], timeout_s: float) -> None:
    """Raises BusUnavailableError that names the topics that are not there."""
    async with administrator(bootstrap, timeout_s) as admin:
        there = set(await admin.list_topics())
    if missing := sorted(set(names) - there):
        raise BusUnavailableError(f"not there: topic {', '.join(missing)}; create the topics first")
