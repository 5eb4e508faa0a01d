"""How InfluxDB's refusals and absences reach the caller: on a real server, through a real wire."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from influx_gate import Gate
from series_data import MINUTE_US, part_rows, random_raw, raw_rows, unique_parts
from stack_fixtures import Influx

from collectors.kit.clock import SystemClock
from pipeline.series.influx import InfluxStore
from pipeline.series.influx_wire import InfluxWire
from pipeline.series.port import StoreSetupError, StoreUnavailableError, WriteBatch

pytestmark = pytest.mark.stack


def now_minute() -> int:
    return SystemClock().wall_us() // MINUTE_US - 60


@contextlib.asynccontextmanager
async def opened(influx: Influx, **options: Any) -> AsyncGenerator[InfluxStore]:
    prefix = options.pop("prefix", f"test-{uuid4().hex[:12]}")
    url = options.pop("url", influx.url)
    store = InfluxStore(url, influx.token, influx.org, prefix=prefix, **options)
    await store.start()
    try:
        yield store
    finally:
        await store.drop()
        await store.close()


@pytest.fixture
async def store(influx: Influx) -> AsyncIterator[InfluxStore]:
    async with opened(influx) as one:
        yield one


@pytest.fixture
def wire(influx: Influx, store: InfluxStore) -> InfluxWire:
    """The wire beneath a store of the test's own."""
    one = InfluxWire(influx.url, influx.token, influx.org, timeout_s=10.0, gzip=False)
    one.open()
    return one


async def bucket_of(store: InfluxStore) -> str:
    return (await store.health())["buckets"].partition(" (")[0]


async def stored_values(wire: InfluxWire, bucket: str) -> list[float]:
    answer = wire.query(bucket, "SELECT v FROM m WHERE time > 0", {}, {"v": float})
    return sorted(answer["v"].tolist())


async def test_lines_that_cannot_be_parsed_are_taken_out(
    store: InfluxStore, wire: InfluxWire
) -> None:
    bucket, second = await bucket_of(store), now_minute() * 60
    lines = [b"m,n=a v=%d.0 %d000000000" % (i, second + i) for i in range(50)]
    lines[7] = b"   m,n=a v=nan %d000000000" % second
    lines[31] = b"no line at all"
    lines[40] = b"m,n=it's v='odd' %d000000000" % second
    refused = wire.write(bucket, b"\n".join(lines))
    assert [one.row for one in refused] == [lines[i].strip() for i in (7, 31, 40)]
    assert all(one.reason for one in refused)
    assert await stored_values(wire, bucket) == [i for i in range(50) if i not in {7, 31, 40}]
    wire.close()


async def test_a_field_of_another_type_is_found_among_stored_lines(
    store: InfluxStore, wire: InfluxWire
) -> None:
    bucket, second = await bucket_of(store), now_minute() * 60
    assert wire.write(bucket, b"m,n=a v=1.0 %d000000000" % (second - 1)) == []
    lines = [b"m,n=a v=%d.0 %d000000000" % (i, second + i) for i in range(100)]
    for bad in (3, 64, 65):
        lines[bad] = b"m,n=a v=%di %d000000000" % (bad, second + bad)
    refused = wire.write(bucket, b"\n".join(lines))
    assert sorted(one.row for one in refused) == sorted(lines[bad] for bad in (3, 64, 65))
    assert all("field type conflict" in one.reason for one in refused)
    expected = [1.0, *(float(i) for i in range(100) if i not in {3, 64, 65})]
    assert await stored_values(wire, bucket) == sorted(expected)
    wire.close()


async def test_lines_outside_retention_are_refused(store: InfluxStore, wire: InfluxWire) -> None:
    raw = random_raw(1, 10, first_us=now_minute() * MINUTE_US, absent=0.0)
    old = replace(raw, time_us=raw.time_us - 30 * 86_400_000_000)
    result = await store.write(WriteBatch(raw=[raw, old]))
    assert (result.stored, len(result.refused)) == (len(raw), len(old))
    assert "retention" in result.refused[0].reason
    assert raw_rows(await store.raw(0, 2**62, node="node-a")) == {
        key: row for key, row in raw_rows(raw).items() if key[0] == "node-a"
    }
    wire.close()


async def test_a_node_that_no_tag_can_say_is_refused(store: InfluxStore) -> None:
    raw = random_raw(2, 4, nodes=("good", "bad\\"), first_us=now_minute() * MINUTE_US, absent=0.0)
    result = await store.write(WriteBatch(raw=[raw]))
    assert (result.stored, len(result.refused)) == (8, 8)
    assert result.refused[0].row == b"bad\\"


async def test_a_wrong_token_says_what_to_set(influx: Influx) -> None:
    store = InfluxStore(influx.url, "wrong-token-7f3a", influx.org)
    with pytest.raises(StoreSetupError, match="token") as failure:
        await store.start()
    assert "wrong-token-7f3a" not in str(failure.value)
    await store.close()


async def test_a_wrong_organisation_says_so(influx: Influx) -> None:
    store = InfluxStore(influx.url, influx.token, "nobody-s-organisation")
    with pytest.raises(StoreSetupError, match="nobody-s-organisation"):
        await store.start()
    await store.close()


@pytest.fixture
async def gate(influx: Influx) -> AsyncIterator[Gate]:
    host, _, port = influx.url.removeprefix("http://").partition(":")
    one = Gate(host, int(port))
    await one.open()
    yield one
    await one.shut()


async def test_an_absent_server_is_unavailable_and_comes_back(influx: Influx, gate: Gate) -> None:
    minute = now_minute()
    parts = unique_parts(3, 30, first_minute=minute)
    async with opened(influx, url=f"http://127.0.0.1:{gate.port}") as store:
        await gate.shut()
        with pytest.raises(StoreUnavailableError):
            await store.write(WriteBatch(minutes=parts))
        with pytest.raises(StoreUnavailableError):
            await store.minutes(minute, minute + 9)
        with pytest.raises(StoreUnavailableError):
            await store.start()
        await gate.open()
        assert (await store.write(WriteBatch(minutes=parts))).stored == len(parts)
        assert part_rows(await store.minutes(minute, minute + 9)) == part_rows(parts)


async def test_a_server_that_stalls_is_unavailable(influx: Influx, gate: Gate) -> None:
    parts = unique_parts(4, 30, first_minute=now_minute())
    url = f"http://127.0.0.1:{gate.port}"
    async with opened(influx, url=url, timeout_s=0.5) as store:
        gate.stalled = True
        with pytest.raises(StoreUnavailableError):
            await store.write(WriteBatch(minutes=parts))
        gate.stalled = False
        assert (await store.write(WriteBatch(minutes=parts))).stored == len(parts)


@pytest.mark.parametrize("status", ["429 Too Many Requests", "500 Error", "503 Unavailable"])
async def test_a_server_that_is_too_busy_is_unavailable(influx: Influx, status: str) -> None:
    """The real one cannot be made to say so at will."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nRetry-After: 1\r\n\r\n".encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    store = InfluxStore(f"http://127.0.0.1:{port}", influx.token, influx.org, timeout_s=5.0)
    with pytest.raises(StoreUnavailableError, match=status[:3]) as failure:
        await store.start()
    assert influx.token not in str(failure.value)
    with pytest.raises(StoreUnavailableError):
        await store.write(WriteBatch(minutes=unique_parts(8, 5, first_minute=now_minute())))
    with pytest.raises(StoreUnavailableError):
        await store.latest_us()
    await store.close()
    server.close()
    await server.wait_closed()


async def test_a_bucket_that_went_is_made_again_for_the_next_attempt(store: InfluxStore) -> None:
    parts = unique_parts(5, 10, first_minute=now_minute())
    await store.drop()
    with pytest.raises(StoreUnavailableError):
        await store.write(WriteBatch(minutes=parts))
    assert (await store.write(WriteBatch(minutes=parts))).stored == len(parts)


async def test_gzip_stores_the_same(influx: Influx) -> None:
    raw = random_raw(6, 10, first_us=now_minute() * MINUTE_US)
    async with opened(influx, gzip=True) as store:
        await store.write(WriteBatch(raw=[raw]))
        found = raw_rows(await store.raw(0, 2**62, node="node-b"))
    assert found == {key: row for key, row in raw_rows(raw).items() if key[0] == "node-b"}


async def test_an_answer_of_several_chunks_is_whole(store: InfluxStore) -> None:
    raw = random_raw(
        7, 5_000, nodes=("n",), slots=4, first_us=now_minute() * MINUTE_US, only=("power_w",)
    )
    raw = replace(raw, values={"power_w": np.nan_to_num(raw.values["power_w"])})
    await store.write(WriteBatch(raw=[raw]))
    assert raw_rows(await store.raw(0, 2**62, node="n")) == raw_rows(raw)
