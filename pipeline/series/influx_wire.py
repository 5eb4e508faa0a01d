"""InfluxDB's HTTP interface as this store uses it; the only file that knows influxdb-client.

Everything here blocks; `InfluxStore` calls it in threads.  Writes go to
`/api/v2/write` as ready bytes.  Reads are InfluxQL at `/query`: for 36,720
minute parts of 48 counter fields the server took 1.7 s for InfluxQL (a
point's fields come as one CSV row) and 10.3 s for Flux grouped by field, six
times the bytes.  Values that are not ours are bound parameters.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import numpy as np
import urllib3
from influxdb_client.client.exceptions import InfluxDBError
from influxdb_client.client.influxdb_client import InfluxDBClient
from influxdb_client.domain.bucket_retention_rules import BucketRetentionRules
from influxdb_client.domain.write_precision import WritePrecision
from influxdb_client.rest import ApiException
from influxdb_client.service.health_service import HealthService
from influxdb_client.service.write_service import WriteService

from collectors.contract.catalogue import COUNTER_ABSENT
from pipeline.series.port import (
    Refused,
    StoreSetupError,
    StoreTooSlowError,
    StoreUnavailableError,
)

Row = Mapping[str, Any]
_ROWS_AT_ONCE = 8_192
_REQUESTS_FOR_REFUSED = 200
_UNPARSED = re.compile(r"unable to parse '(.*)': (.*)")
_DROPPED = re.compile(r"dropped=(\d+)")
_SLOW = frozenset({HTTPStatus.GATEWAY_TIMEOUT, HTTPStatus.REQUEST_TIMEOUT})
_SPLIT = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE})


class BucketGoneError(StoreUnavailableError):
    """Somebody deleted the bucket; it can be made again."""


class InfluxWire:
    """One server, one organisation, one token."""

    def __init__(self, url: str, token: str, org: str, *, timeout_s: float, gzip: bool) -> None:
        self.url = url
        self.org = org
        self._options: dict[str, Any] = {
            "token": token,
            "org": org,
            "timeout": int(timeout_s * 1_000),
            "enable_gzip": gzip,
            "retries": False,
            "connection_pool_maxsize": 8,
        }
        self._opened: Any = None

    @property
    def _client(self) -> Any:
        if self._opened is None:
            raise StoreUnavailableError(f"InfluxDB at {self.url} is not open")
        return self._opened

    def open(self) -> None:
        """Makes the client; nothing is sent yet."""
        if self._opened is None:
            self._opened = InfluxDBClient(self.url, **self._options)

    @contextmanager
    def _errors(self) -> Generator[None]:
        """The client's failures as the port's; 400, 413 and 422 pass, as they are about lines."""
        try:
            yield
        except ApiException as error:
            status = _status(error)
            if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
                raise StoreSetupError(
                    f"InfluxDB at {self.url} refuses the token ({status}): set one that may read,"
                    f" write and create buckets of the organisation {self.org!r}"
                ) from None
            if status in _SPLIT or status in {
                HTTPStatus.UNPROCESSABLE_ENTITY,
                HTTPStatus.NOT_FOUND,
            }:
                raise
            kind = StoreTooSlowError if status in _SLOW else StoreUnavailableError
            raise kind(f"InfluxDB at {self.url} answers {status}: {reason(error)}") from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            kind = StoreTooSlowError if _is_timeout(error) else StoreUnavailableError
            raise kind(f"InfluxDB at {self.url} does not answer: {error}") from None

    def version(self) -> str:
        """The server's version; raises StoreUnavailableError until it is ready."""
        with self._errors():
            service: Any = HealthService(self._client.api_client)
            health = service.get_health()
        if health.status != "pass":
            raise StoreUnavailableError(f"InfluxDB at {self.url}: {health.message}")
        return str(health.version)

    def create_bucket(self, name: str, retention_s: int) -> None:
        """Creates a bucket that is not there; raises StoreSetupError when the organisation is not."""
        try:
            with self._errors():
                buckets: Any = self._client.buckets_api()
                if buckets.find_bucket_by_name(name) is None:
                    rule = BucketRetentionRules(type="expire", every_seconds=retention_s)
                    buckets.create_bucket(bucket_name=name, retention_rules=rule, org=self.org)
        except ApiException as error:
            if _status(error) == HTTPStatus.UNPROCESSABLE_ENTITY:
                return  # Another worker created it in between.
            raise StoreSetupError(
                f"InfluxDB at {self.url} will not give the bucket {name!r} in the organisation"
                f" {self.org!r} ({_status(error)}: {reason(error)}): check both names"
            ) from None
        except InfluxDBError as error:
            raise StoreSetupError(
                f"InfluxDB at {self.url} has no organisation {self.org!r} for this token: {error}"
            ) from None

    def drop_bucket(self, name: str) -> None:
        """Deletes a bucket, if it is there."""
        with self._errors():
            buckets: Any = self._client.buckets_api()
            bucket = buckets.find_bucket_by_name(name)
            if bucket is not None:
                buckets.delete_bucket(bucket)

    def write(self, bucket: str, lines: bytes) -> list[Refused]:
        """Writes lines; returns those that the server refuses for good.

        Of a request with a line that cannot be parsed (400) nothing is stored:
        the lines quoted are taken out and the rest is sent again.  After a
        partial write (422) halves are sent again until the refused lines are
        found; sending a stored line twice changes nothing.  When that takes too
        many requests, the rest are reported without their text.
        """
        refused: list[Refused] = []
        waiting = [lines]
        for request in itertools.count(1):
            if not waiting:
                return refused
            body = waiting.pop()
            try:
                self._post(bucket, body)
            except ApiException as error:
                if _status(error) == HTTPStatus.NOT_FOUND:
                    raise BucketGoneError(f"the bucket {bucket!r} is gone") from None
                bad, rest = _sorted_out(
                    error, body.splitlines(), last=request > _REQUESTS_FOR_REFUSED
                )
                refused += bad
                waiting += rest
        raise AssertionError("unreachable")

    def _post(self, bucket: str, body: bytes) -> None:
        with self._errors():
            writes: Any = WriteService(self._client.api_client)
            writes.post_write(org=self.org, bucket=bucket, body=body, precision=WritePrecision.NS)

    def delete(self, bucket: str, start: str, stop: str, predicate: str) -> None:
        """Deletes points with start ≤ time ≤ stop (RFC 3339) that meet the predicate."""
        with self._errors():
            deletes: Any = self._client.delete_api()
            deletes.delete(start, stop, predicate, bucket=bucket, org=self.org)

    def query(
        self, bucket: str, query: str, parameters: Mapping[str, Any], columns: Mapping[str, type]
    ) -> dict[str, Any]:
        """The columns of an InfluxQL query as arrays, by name.

        `columns` says what each is: `str` (object array), `int` (uint64, two's
        complement, absent is COUNTER_ABSENT) or `float` (float32, absent is
        NaN).  `time` is added, in ns.
        """
        form = [
            ("db", bucket),
            ("q", query),
            ("params", json.dumps(parameters)),
            ("epoch", "ns"),
            ("chunked", "true"),
            ("chunk_size", str(_ROWS_AT_ONCE)),
        ]
        headers = {
            "Accept": "application/csv",
            "Content-Type": "application/x-www-form-urlencoded",
        }
        try:
            with self._errors():
                answer: Any = self._client.api_client.call_api(
                    "/query",
                    "POST",
                    header_params=headers,
                    post_params=form,
                    _preload_content=False,
                    _return_http_data_only=True,
                )
                try:
                    return _columns(answer, dict(columns))
                finally:
                    answer.release_conn()
        except ApiException as error:
            raise StoreUnavailableError(
                f"InfluxDB at {self.url} cannot answer for the bucket {bucket!r}: {reason(error)}"
            ) from None

    def close(self) -> None:
        """Closes the connections; `open` makes new ones."""
        client, self._opened = self._opened, None
        if client is not None:
            client.close()


def _is_timeout(error: Exception) -> bool:
    """Whether a server that was there did not answer, or not even read, in time."""
    if isinstance(error, urllib3.exceptions.ConnectTimeoutError):
        return False
    # While a request's body is being sent, the timeout comes as the cause of a broken connection.
    reasons = (error, *error.args)
    return any(isinstance(one, TimeoutError | urllib3.exceptions.TimeoutError) for one in reasons)


def _status(error: Any) -> int:
    return int(error.status or 0)


def reason(error: Any) -> str:
    """The server's own words."""
    body = error.body
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return str(body or error.reason)


def _halved(lines: Sequence[bytes]) -> list[bytes]:
    middle = len(lines) // 2
    return [b"\n".join(half) for half in (lines[:middle], lines[middle:]) if half]


def _sorted_out(
    error: ApiException, lines: Sequence[bytes], *, last: bool
) -> tuple[list[Refused], list[bytes]]:
    """Which lines are refused for good, and what is to be sent again."""
    why = reason(error)
    quoted = {bad.strip().encode(): text for bad, text in _UNPARSED.findall(why)}
    if _status(error) == HTTPStatus.BAD_REQUEST and quoted:
        bad = [line for line in lines if line.strip() in quoted]
        rest = [line for line in lines if line.strip() not in quoted]
        if bad:
            again = [b"\n".join(rest)] if rest else []
            return [Refused(quoted[line.strip()], line.strip()) for line in bad], again
    dropped = _DROPPED.search(why)
    count = int(dropped[1]) if dropped else len(lines)
    if len(lines) == 1 or (dropped and count >= len(lines)):
        return [Refused(why, line.strip()) for line in lines], []
    if last:
        return [Refused(why, b"")] * count, []
    return [], _halved(lines)


def _columns(answer: Any, columns: dict[str, type]) -> dict[str, Any]:
    answer.auto_close = False  # Else the last byte closes it under the reader's hands.
    reader = csv.reader(io.TextIOWrapper(answer, encoding="utf-8", newline=""))
    header = next(reader, None)
    if header is not None and header[0] == "error":
        raise StoreUnavailableError(f"InfluxDB cannot answer: {next(reader, '')}")
    columns["time"] = int
    places = {} if header is None else {name: header.index(name) for name in columns}
    pieces: dict[str, list[Any]] = {name: [_parsed([], kind)] for name, kind in columns.items()}
    while header is not None:
        # A chunk of a long answer begins with the header again.
        rows = [row for row in itertools.islice(reader, _ROWS_AT_ONCE) if row and row != header]
        if not rows:
            break
        cells = list(zip(*rows, strict=True))
        for name, place in places.items():
            pieces[name].append(_parsed(cells[place], columns[name]))
    return {name: np.concatenate(arrays) for name, arrays in pieces.items()}


def _parsed(cells: Sequence[str], kind: type) -> Any:
    if kind is str:
        return np.array(cells, np.object_)
    if kind is int:
        if not any(cells):
            return np.full(len(cells), COUNTER_ABSENT, np.uint64)
        return np.array([int(cell or -1) for cell in cells], np.int64).view(np.uint64)
    return np.array([cell or "nan" for cell in cells], np.float64).astype(np.float32)
