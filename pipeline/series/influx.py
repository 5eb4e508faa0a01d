"""The distributed series store: InfluxDB 2.x.

Buckets `PREFIX_raw` (measurement `gpu`) and `PREFIX_minutes` (`gpu_minute`,
`node_minute`); `lines` and `packed` say what is in them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collectors.contract.catalogue import CATALOGUE, Kind, Metric
from collectors.contract.identity import slot_text
from collectors.kit.clock import Clock, SystemClock
from pipeline.series import lines
from pipeline.series.columns import select_masks, select_parts, select_raw
from pipeline.series.influx_columns import masks_of, parts_of, place_of, samples_of
from pipeline.series.influx_query import MOST_BOUND, Where, quoted, rfc3339, select
from pipeline.series.influx_wire import BucketGoneError, InfluxWire
from pipeline.series.pace import Pace
from pipeline.series.packed import word_and_bit
from pipeline.series.port import (
    MinuteParts,
    NodeMasks,
    RawSamples,
    Refused,
    StoreSetupError,
    StoreTooSlowError,
    WriteBatch,
    WriteResult,
)
from pipeline.series.requests import Kept, requests_of
from pipeline.series.unpacked import UnpackableError

_DAY_S = 86_400
_REQUESTS_IN_FLIGHT = 2


class InfluxStore:
    """`SeriesStore` in InfluxDB 2.x (2.2 or later, for InfluxQL by bucket name).

    `token` must be allowed to create, read and write buckets of `org`.
    Requests hold 5,000 lines, and fewer while the server does not answer that
    many within `timeout_s`; gzip is off, as it costs both sides more CPU than
    it saves where the network is not the limit.
    """

    hours_a_read = 24
    """The a GPU's minutes of a day lie together."""

    def __init__(
        self,
        url: str,
        token: str,
        org: str,
        *,
        prefix: str = "petawatch",
        raw_days: int = 7,
        minute_days: int = 90,
        timeout_s: float = 30.0,
        gzip: bool = False,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._pace = Pace(timeout_s)
        self._wire = InfluxWire(url, token, org, timeout_s=timeout_s, gzip=gzip)
        self._buckets = {f"{prefix}_raw": raw_days, f"{prefix}_minutes": minute_days}
        self._raw_bucket, self._minute_bucket = self._buckets

    @property
    def lines_a_request(self) -> int:
        """Lines of a request at most, now: fewer while the server is slow."""
        return self._pace.lines

    async def start(self) -> None:
        """Creates the buckets with their retention; raises StoreSetupError."""
        self._wire.open()
        await asyncio.to_thread(self._wire.version)
        for bucket, days in self._buckets.items():
            await asyncio.to_thread(self._wire.create_bucket, bucket, days * _DAY_S)

    async def write(self, batch: WriteBatch) -> WriteResult:
        """Returns when all lines are in the server's log, apart from those refused."""
        refused: list[Refused] = []
        sending: set[asyncio.Task[list[Refused]]] = set()
        done: set[asyncio.Task[list[Refused]]] = set()
        blocks = requests_of(batch, refused)
        try:
            while (block := await asyncio.to_thread(next, blocks, None)) is not None:
                if len(sending) >= _REQUESTS_IN_FLIGHT:
                    done, sending = await asyncio.wait(sending, return_when="FIRST_COMPLETED")
                    refused += [one for task in done for one in task.result()]
                sending.add(asyncio.create_task(asyncio.to_thread(self._send, *block)))
            refused += [one for task in sending for one in await task]
        finally:
            # Of those that failed together, one is told of; the others' ends are taken note of.
            await asyncio.gather(*sending, *done, return_exceptions=True)
        rows = sum(map(len, batch.raw))
        rows += sum(len(part) for part in (batch.minutes, batch.masks) if part is not None)
        return WriteResult(rows - len(refused), tuple(refused))

    def _send(self, kept: Kept, body: bytes) -> list[Refused]:
        bucket = self._raw_bucket if kept is Kept.RAW else self._minute_bucket
        refused: list[Refused] = []
        for piece, lines_sent in self._pace.pieces(body):
            began_us = self._clock.monotonic_us()
            try:
                refused += self._wire.write(bucket, piece)
            except BucketGoneError:
                self._wire.create_bucket(bucket, self._buckets[bucket] * _DAY_S)
                raise
            except StoreTooSlowError:
                self._pace.too_slow(lines_sent)
                raise
            self._pace.answered(lines_sent, self._clock.monotonic_us() - began_us)
        return refused

    async def _query(
        self, bucket: str, selected: str, where: Where, columns: Mapping[str, type], rest: str = ""
    ) -> dict[str, Any]:
        query = " ".join((selected, "WHERE", " AND ".join(where.conditions), rest))
        return await asyncio.to_thread(self._wire.query, bucket, query, where.bound, columns)

    async def minutes(
        self,
        from_minute: int,
        to_minute: int,
        *,
        nodes: Sequence[str] | None = None,
        slots: Sequence[int] | None = None,
        counters: Sequence[str] | None = None,
        gauges: Sequence[str] | None = None,
    ) -> MinuteParts:
        """All parts with from_minute ≤ minute < to_minute, unmerged, in no order."""
        metrics = _chosen(counters, Kind.COUNTER), _chosen(gauges, Kind.GAUGE)
        columns: dict[str, type] = {"node": str, "slot": str, "part": str}
        if metrics[1]:
            columns["gauges"] = str
        where = Where().minutes(from_minute, to_minute).one_of("node", nodes)
        where.one_of("slot", None if slots is None else [slot_text(slot) for slot in slots])
        found = await self._query(
            self._minute_bucket, select(quoted(columns), "gpu_minute"), where, columns
        )
        parts = await asyncio.to_thread(self._parts, found, metrics)
        if nodes is not None:
            parts = select_parts(parts, _among(parts, nodes))
        return parts if slots is None else select_parts(parts, _has_slot(parts, slots))

    def _parts(
        self, found: Mapping[str, Any], metrics: tuple[list[Metric], list[Metric]]
    ) -> MinuteParts:
        try:
            return parts_of(found, *metrics)
        except UnpackableError as error:
            raise StoreSetupError(
                f"the bucket {self._minute_bucket!r} holds {error}: name other buckets in the"
                " store's address (prefix=…), or read it with the version that wrote it"
            ) from error

    async def nearest(
        self, minute: int, *, nodes: Sequence[str], counter: str, before: bool, reach: int
    ) -> Sequence[tuple[str, int, int]]:
        """(node, slot, minute) of the nearest minute that has the counter, per slot."""
        if CATALOGUE.by_name[counter].kind is not Kind.COUNTER:
            raise ValueError(f"{counter} is not a counter")
        span = (minute - reach, minute) if before else (minute, minute + reach + 1)
        choose = "last" if before else "first"
        word, bit = word_and_bit(CATALOGUE.by_name[counter])
        selected = select([f'{choose}("{word}")'], "gpu_minute")
        where = Where().minutes(*span).one_of("node", nodes).has_bit(word, bit)
        found = await self._query(
            self._minute_bucket, selected, where, {"tags": str}, "GROUP BY node, slot"
        )
        wanted = set(nodes)
        places = [place_of(tags) for tags in found["tags"]]
        minutes = (found["time"] // np.uint64(lines.MINUTE_NS)).tolist()
        return [
            (*place, at) for place, at in zip(places, minutes, strict=True) if place[0] in wanted
        ]

    async def masks(
        self, from_minute: int, to_minute: int, *, nodes: Sequence[str] | None = None
    ) -> NodeMasks:
        """All masks of the minutes, unmerged."""
        columns = {"node": str} | dict.fromkeys(lines.MASK_FIELDS, int)
        where = Where().minutes(from_minute, to_minute).one_of("node", nodes)
        found = await self._query(
            self._minute_bucket, select(quoted(columns), "node_minute"), where, columns
        )
        masks = masks_of(found)
        return masks if nodes is None else select_masks(masks, _among(masks, nodes))

    async def raw(
        self,
        from_us: int,
        to_us: int,
        *,
        node: str,
        slots: Sequence[int] | None = None,
        metrics: Sequence[str] | None = None,
    ) -> RawSamples:
        """Samples with from_us ≤ time < to_us, in order of (slot, time)."""
        chosen = _chosen(metrics)
        columns: dict[str, type] = {"slot": str, "origin": str}
        columns |= {m.name: int if m.kind is Kind.COUNTER else float for m in chosen}
        where = Where().between(from_us * 1_000, to_us * 1_000).one_of("node", [node])
        where.one_of("slot", None if slots is None else [slot_text(slot) for slot in slots])
        found = await self._query(self._raw_bucket, select(quoted(columns), "gpu"), where, columns)
        samples = samples_of(found, node, chosen)
        return samples if slots is None else select_raw(samples, _has_slot(samples, slots))

    async def latest_us(self, *, nodes: Sequence[str] | None = None) -> int | None:
        """Event time of the newest raw sample, None when there is none."""
        if nodes is None:
            return await self._latest_us(None)
        some = (nodes[at : at + MOST_BOUND] for at in range(0, len(nodes), MOST_BOUND))
        newest = [await self._latest_us(few) for few in some]
        return max((time_us for time_us in newest if time_us is not None), default=None)

    async def _latest_us(self, nodes: Sequence[str] | None) -> int | None:
        where = Where().since_ever().one_of("node", nodes)
        found = await self._query(
            self._raw_bucket, select("*", "gpu"), where, {}, "ORDER BY time DESC LIMIT 1"
        )
        return int(found["time"][0]) // 1_000 if len(found["time"]) else None

    async def delete_minutes(
        self, from_minute: int, to_minute: int, *, node: str, slot: int | None = None
    ) -> None:
        """Removes the parts of a node (or one slot of it) in a range of minutes."""
        if from_minute >= to_minute:
            return
        name = node.replace("\\", "\\\\").replace('"', '\\"')
        predicate = f'_measurement="gpu_minute" AND node="{name}"'
        if slot is not None:
            predicate += f' AND slot="{slot_text(slot)}"'
        start, stop = rfc3339(from_minute * 60), rfc3339(to_minute * 60 - 1, ".999999999")
        await asyncio.to_thread(self._wire.delete, self._minute_bucket, start, stop, predicate)

    async def delete_before(self, raw_us: int, minutes_us: int) -> None:
        """Nothing: the buckets' own retention does it."""

    async def drop(self) -> None:
        """Deletes both buckets."""
        for bucket in self._buckets:
            await asyncio.to_thread(self._wire.drop_bucket, bucket)

    async def health(self) -> dict[str, str]:
        """Version, address and buckets; the server does not say its size."""
        version = await asyncio.to_thread(self._wire.version)
        buckets = ", ".join(f"{name} ({days} d)" for name, days in self._buckets.items())
        return {
            "store": "influxdb",
            "version": version,
            "url": self._wire.url,
            "org": self._wire.org,
            "buckets": buckets,
            "lines_a_request": str(self.lines_a_request),
        }

    async def close(self) -> None:
        """Closes the connections; what was written stays."""
        await asyncio.to_thread(self._wire.close)


def _chosen(names: Sequence[str] | None, kind: Kind | None = None) -> list[Metric]:
    return [
        metric
        for metric in CATALOGUE
        if (kind is None or metric.kind is kind) and (names is None or metric.name in names)
    ]


def _among(rows: MinuteParts | NodeMasks, nodes: Sequence[str]) -> NDArray[np.bool_]:
    wanted = set(nodes)
    return np.array([name in wanted for name in rows.nodes] or [False], np.bool_)[rows.node]


def _has_slot(rows: MinuteParts | RawSamples, slots: Sequence[int]) -> NDArray[np.bool_]:
    return np.isin(rows.slot, np.array(slots, np.uint64))
