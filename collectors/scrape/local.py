"""The DCGM exporter of this node, for GPUs that do not measure tensor activity by themselves.

Read in a thread of its own, with the standard library's client: an agent that
needs it must not grow by an HTTP library.
"""

from __future__ import annotations

import http.client
import logging
import threading
from collections import Counter
from collections.abc import Mapping
from urllib.parse import urlsplit

from collectors.contract.flop import FlopWindow
from collectors.contract.models import find_model
from collectors.contract.record import SlotLabels
from collectors.kit.clock import Clock
from collectors.kit.flops import ClockSpan
from collectors.scrape.names import ACTIVITIES
from collectors.scrape.page import Page, PageGpu, PageReader
from collectors.scrape.pipe import ExporterPipe
from collectors.scrape.renewals import Renewals
from collectors.scrape.targets import make_target
from collectors.scrape.values import catalogue_values

_log = logging.getLogger(__name__)
_LEARNING_S, _TIMEOUT_S, _AWAY_S = 1.0, 5.0, 15.0
_PER_INTERVAL = 3
_LARGEST = 4 * 2**20
_MOST_CLOCKS = 3_600


class LocalExporter:
    """`start`, then `window` at each tick of the agent, then `stop`.

    Raises ValueError for what is no address.
    """

    def __init__(self, url: str, clock: Clock) -> None:
        self._url = make_target(url).url
        self.shown = make_target(url).shown
        self._clock = clock
        self._reader = PageReader()
        self._renewals = Renewals()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="exporter", daemon=True)
        self._gpus: dict[int, _LocalGpu] = {}
        self._by_uuid: dict[str, _LocalGpu] = {}
        self._away = ""

    def start(self) -> None:
        """Begins to read."""
        self._thread.start()

    def stop(self) -> None:
        """Ends reading; returns within the time that one page may take."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(_TIMEOUT_S + 1)

    def window(
        self, labels: SlotLabels, values: Mapping[str, float], now_us: int
    ) -> FlopWindow | None:
        """What has been measured of a slot since the last call with it.

        `values` are the tick's own, `now_us` is monotonic.  None where the
        exporter measures no tensor activity of it, or has never answered.
        """
        with self._lock:
            gpu = self._gpus.get(labels.slot) or self._by_uuid.get(labels.uuid)
            if gpu is None:
                return None
            return gpu.window(labels.model, values, overdue=self._renewals.overdue(now_us))

    def _run(self) -> None:
        connection: http.client.HTTPConnection | None = None
        while not self._stop.is_set():
            try:
                connection = connection or self._connect()
                self.take(self._reader.read(_body(connection, self._url)))
                self._tell("")
            except (OSError, http.client.HTTPException, ValueError) as error:
                connection = _closed(connection)
                with self._lock:
                    self._renewals.refresh.lost()
                self._tell(f"{type(error).__name__}: {error}")
            self._stop.wait(self._pause_s())
        _closed(connection)

    def _connect(self) -> http.client.HTTPConnection:
        parts = urlsplit(self._url)
        kind = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        return kind(parts.hostname or "", parts.port, timeout=_TIMEOUT_S)

    def _pause_s(self) -> float:
        """Often while the interval is unknown, then three times in it."""
        if self._away:
            return _AWAY_S
        interval_us = self._renewals.refresh.interval_us
        if interval_us is None:
            return _LEARNING_S
        return max(_LEARNING_S, interval_us / 1e6 / _PER_INTERVAL)

    def _tell(self, reason: str) -> None:
        """Once when it goes away, and once when it is back."""
        if bool(reason) != bool(self._away):
            if reason:
                _log.warning("exporter_away url=%s reason=%s", self.shown, reason)
            else:
                _log.info("exporter_back url=%s", self.shown)
        self._away = reason

    def take(self, page: Page) -> None:
        """A page that was read just now."""
        now_us = self._clock.monotonic_us()
        with self._lock:
            if not page.gpus:
                return
            elapsed_us = self._renewals.take(page, now_us)
            for gpu in page.gpus:
                known = self._gpus.setdefault(gpu.slot, _LocalGpu())
                known.take(gpu, page.percent, elapsed_us)
                if gpu.place.labels.uuid:
                    self._by_uuid[gpu.place.labels.uuid] = known


class _LocalGpu:
    """One GPU: what the exporter said last, and the agent's clocks since it was said anew."""

    def __init__(self) -> None:
        self._pipe = ExporterPipe()
        self._raw: Mapping[str, float] = {}
        self._values: Mapping[str, float] = {}
        self._elapsed_us = 0
        self._clocks_mhz: list[float] = []

    def take(self, gpu: PageGpu, percent: bool | None, elapsed_us: int) -> None:
        self._raw = gpu.values
        self._values = catalogue_values(gpu.values, percent, Counter())
        self._elapsed_us = elapsed_us or self._elapsed_us

    def window(
        self, model: str, values: Mapping[str, float], *, overdue: bool
    ) -> FlopWindow | None:
        """Each renewal counts once; the mean clock is that of the agent's ticks since the last."""
        clock_mhz = values.get("sm_clock_mhz")
        if clock_mhz is not None and len(self._clocks_mhz) < _MOST_CLOCKS:
            self._clocks_mhz.append(clock_mhz)
        elapsed_us, self._elapsed_us = self._elapsed_us, 0
        activities = {name: self._values[name] for name in ACTIVITIES if name in self._values}
        clock = self._mean() if elapsed_us else None
        return self._pipe.window(
            self._raw, {**self._values, **values, **activities}, find_model(model), elapsed_us,
            overdue=overdue, clock=clock,
        )  # fmt: skip

    def _mean(self) -> ClockSpan | None:
        clocks = self._clocks_mhz
        self._clocks_mhz = []
        if not clocks:
            return None
        mean_mhz = sum(clocks) / len(clocks)
        return ClockSpan(mean_mhz, min(clocks), max(clocks), buffered=True)


def _body(connection: http.client.HTTPConnection, url: str) -> bytes:
    """The page.  Raises OSError, HTTPException and ValueError."""
    parts = urlsplit(url)
    connection.request("GET", parts.path + (f"?{parts.query}" if parts.query else ""))
    answer = connection.getresponse()
    body = answer.read(_LARGEST + 1)
    if answer.status != 200 or len(body) > _LARGEST:
        connection.close()
        raise ValueError(f"status {answer.status}, {len(body)} bytes")
    return body


def _closed(connection: http.client.HTTPConnection | None) -> None:
    if connection is not None:
        connection.close()
