"""An exporter's page, read again and again: its lines are learnt once and looked up from then on.

All that stands before a line's value says what the value is, and is the same at
every scrape; so one look-up of these bytes replaces the parsing of labels.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from collectors.scrape.names import ACTIVITIES, RATES, has_base_units
from collectors.scrape.series import INFO, Holder, Place, Places, Series, parse_series, series_of
from collectors.scrape.values import blank

_DRIVER = ("DCGM_FI_DRIVER_VERSION", "DCGM_FI_SYSTEM_DRIVER_VERSION", "driver_version")
_HOST = ("Hostname", "hostname")
_UTIL_HELP = re.compile(rb"^# HELP DCGM_FI_DEV_GPU_UTIL_RATIO .*$", re.MULTILINE)
_PROFILED = frozenset(ACTIVITIES) | RATES.keys()
DCGM, SMI = "dcgm-exporter", "nvidia_gpu_exporter"


@dataclass(slots=True)
class PageGpu:
    """What a page says of one GPU or instance, by names of `names.py`, scaled."""

    place: Place
    values: dict[str, float] = field(default_factory=dict[str, float])
    holders: set[Holder] = field(default_factory=set[Holder])
    xids: dict[int, int] = field(default_factory=dict[int, int])

    @property
    def slot(self) -> int:
        """Its packed slot."""
        return self.place.labels.slot

    def activities(self) -> tuple[float, ...]:
        """What profiling measured, in a fixed order of names; () where it measures nothing."""
        return tuple(value for name, value in sorted(self.values.items()) if name in _PROFILED)


@dataclass(slots=True)
class Page:
    """One scrape; `gpus` in order of slot."""

    exporter: str
    host: str
    driver: str
    gpus: list[PageGpu]
    current: bool
    """False where the exporter itself says that it could not collect anew."""
    percent: bool | None
    """Whether `gpu_utilization_or_percent` is a percentage; None while nothing tells."""
    rejects: Counter[str]


class PageReader:
    """Of one exporter.  `read` costs about 0.4 µs a line once the lines are known.

    Pods come and go, and each makes lines of its own: beyond `most_lines` all
    are learnt anew.
    """

    def __init__(self, *, most_lines: int = 50_000) -> None:
        self._most_lines = most_lines
        self._known: dict[bytes, Series | None] = {}
        self._places = Places()
        self._host = self._driver = ""
        self._exporter = ""
        self._percent: bool | None = None

    def read(self, body: bytes) -> Page:
        """The page's values.  Raises ValueError for what is no exporter's page of GPUs."""
        rejects: Counter[str] = Counter()
        gpus: dict[int, PageGpu] = {}
        fresh: list[tuple[bytes, bytes]] = []
        current = True
        known = self._known
        for line in body.split(b"\n"):
            cut = line.rfind(b"}") + 1
            if not cut:
                current &= _says_current(line)
                continue
            try:
                series = known[line[:cut]]
            except KeyError:
                fresh.append((line[:cut], line[cut:]))
                continue
            if series is not None:
                _take(series, line[cut:], gpus, rejects)
        if fresh:
            self._learn([key for key, _ in fresh], body)
            for key, rest in fresh:
                series = known[key]
                if series is not None:
                    _take(series, rest, gpus, rejects)
        if not self._exporter:
            raise ValueError("no series of dcgm-exporter or nvidia_gpu_exporter is on the page")
        found = sorted(gpus.values(), key=lambda gpu: gpu.slot)
        self._judge_percent(found)
        return Page(
            self._exporter, self._host, self._driver, found, current, self._percent, rejects
        )

    @property
    def lines(self) -> int:
        """How many are known."""
        return len(self._known)

    def _learn(self, keys: list[bytes], body: bytes) -> None:
        if self.lines > self._most_lines:
            self._known.clear()
            keys = [line[: line.rfind(b"}") + 1] for line in body.split(b"\n")]
        texts = {key: key.decode("utf-8", "replace") for key in keys if key[:1] != b"#"}
        # An info series stands behind others of its GPU, and says more than they do.
        for text in texts.values():
            if text.startswith(INFO + "{"):
                self._inform(text)
        for key in keys:
            self._known[key] = self._series(texts[key], body) if key in texts else None

    def _inform(self, text: str) -> None:
        _, labels = parse_series(text)
        self._places.inform(labels)
        self._node(labels)

    def _series(self, text: str, body: bytes) -> Series | None:
        try:
            name, labels = parse_series(text)
            series = series_of(text, self._places)
        except ValueError:
            return None
        if name.startswith(("DCGM_", "nvidia_smi_")):
            self._exporter = DCGM if name.startswith("DCGM_") else SMI
            self._node(labels)
            if has_base_units(name) or _DRIVER[1] in labels:
                self._percent = False
        if series is not None and series.metric == "gpu_utilization_or_percent":
            self._read_help(body)
        return series

    def _node(self, labels: Mapping[str, str]) -> None:
        self._host = next((labels[name] for name in _HOST if labels.get(name)), self._host)
        self._driver = next((labels[name] for name in _DRIVER if labels.get(name)), self._driver)

    def _read_help(self, body: bytes) -> None:
        """Collector files say the unit, since they name one for each field."""
        found = _UTIL_HELP.search(body)
        text = b"" if found is None else found[0].lower()
        if self._percent is None and (b"%" in text or b"percent" in text):
            self._percent = True

    def _judge_percent(self, gpus: list[PageGpu]) -> None:
        """No ratio is above 1, so that one such value tells what all are."""
        if self._percent is None:
            values = [gpu.values.get("gpu_utilization_or_percent", 0.0) for gpu in gpus]
            self._percent = True if any(value > 1 for value in values) else None


def _take(series: Series, rest: bytes, gpus: dict[int, PageGpu], rejects: Counter[str]) -> None:
    slot, metric, scale, place, holder, xid = series
    gpu = gpus.get(slot)
    if gpu is None:
        gpu = gpus[slot] = PageGpu(place)
    if holder is not None:
        gpu.holders.add(holder)
    try:
        value = float(rest)
    except ValueError:
        value = _first_number(rest)
    if blank(value):
        rejects["blank"] += 1
    elif xid is not None:
        gpu.xids[xid] = int(value)
    else:
        # Where a GPU is shared each holder has a line of its own with the same value: one counts.
        gpu.values[metric] = value * scale


def _first_number(rest: bytes) -> float:
    """The value before a time stamp; NaN for what is no number."""
    try:
        return float(rest.split()[0])
    except (ValueError, IndexError):
        return math.nan


def _says_current(line: bytes) -> bool:
    """Whether a line without labels leaves the page fit for use."""
    if line.startswith(b"nvidia_smi_last_collect_success "):
        return _first_number(line.partition(b" ")[2]) != 0
    if line.startswith(b"nvidia_smi_command_exit_code "):
        return _first_number(line.partition(b" ")[2]) == 0
    return True
