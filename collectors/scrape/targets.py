"""Which exporters to read: addresses given, or a file of them that is read again when it changes.

A file is either lines `URL key=value …`, or Prometheus' own file_sd lists in
JSON or YAML.  Keys: `node`, `rack`, `hall`, and `refresh`, the seconds of the
exporter's own interval where it is known.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import msgspec

_log = logging.getLogger(__name__)
_KEYS = ("node", "rack", "hall", "refresh")
_ALSO_NODE = ("node", "nodename", "kubernetes_node", "hostname")


@dataclass(frozen=True, slots=True)
class Target:
    """One exporter.  `node` "" takes the page's own host name."""

    url: str
    node: str = ""
    rack: str = ""
    hall: str = ""
    refresh_us: int | None = None

    @property
    def shown(self) -> str:
        """The address without what may be a secret."""
        parts = urlsplit(self.url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

    @property
    def host(self) -> str:
        """The address's host."""
        return urlsplit(self.url).hostname or ""


def make_target(address: str, words: Mapping[str, str] | None = None) -> Target:
    """Of `http://host:port/path` or `host:port`, where `/metrics` is left away.  ValueError."""
    words = words or {}
    unknown = sorted(set(words) - set(_KEYS))
    if unknown:
        raise ValueError(f"{address}: no {unknown[0]}=; there is: {', '.join(_KEYS)}")
    url = address if "://" in address else f"http://{address}"
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or not _port_fits(url):
        raise ValueError(f"not an exporter's address: {address!r}; write http://host:9400/metrics")
    if parts.path in {"", "/"}:
        url = urlunsplit(parts._replace(path="/metrics"))
    return Target(
        url, words.get("node", ""), words.get("rack", ""), words.get("hall", ""),
        _refresh(address, words.get("refresh", "")),
    )  # fmt: skip


def _port_fits(url: str) -> bool:
    try:
        return urlsplit(url).port != 0
    except ValueError:
        return False


def _refresh(address: str, text: str) -> int | None:
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0.1 <= seconds <= 3600:
        raise ValueError(f"{address}: refresh={text} is no number of seconds from 0.1 to 3600")
    return round(seconds * 1e6)


def parse_lines(text: str) -> list[Target]:
    """Of `URL node=NAME rack=…` lines; what follows a # is left out.  ValueError with the line."""
    targets: list[Target] = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        pairs = [word.partition("=") for word in words[1:]]
        if any(not sign or not value for _, sign, value in pairs):
            raise ValueError(f"line {number}: write it as URL node=NAME rack=NAME")
        try:
            targets.append(make_target(words[0], {key: value for key, _, value in pairs}))
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
    return targets


class _Group(msgspec.Struct):
    targets: list[str]
    labels: dict[str, str] = {}


def parse_groups(found: Any) -> list[Target]:
    """Of a file_sd list: `[{targets: […], labels: {…}}]`.  Labels that say nothing here are left
    out, since such files serve Prometheus too.  ValueError."""
    try:
        groups = msgspec.convert(found, list[_Group], strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(f"not a file_sd list: {error}") from error
    targets: list[Target] = []
    for group in groups:
        labels = group.labels
        words = {key: labels[key] for key in ("rack", "hall", "refresh") if labels.get(key)}
        node = next((labels[key] for key in _ALSO_NODE if labels.get(key)), "")
        # One name for several exporters is no name for any of them.
        words |= {"node": node} if node and len(group.targets) == 1 else {}
        scheme, path = labels.get("__scheme__", "http"), labels.get("__metrics_path__", "/metrics")
        for address in group.targets:
            full = address if "://" in address else f"{scheme}://{address}{path}"
            targets.append(make_target(full, words))
    return targets


def read_targets(path: Path) -> list[Target]:
    """A file's targets, by its suffix.  Raises ValueError, OSError."""
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            return parse_groups(msgspec.json.decode(text))
        if path.suffix in {".yml", ".yaml"}:
            return parse_groups(_yaml(text))
        return parse_lines(text)
    except (ValueError, msgspec.DecodeError) as error:
        raise ValueError(f"{path}: {error}") from error


def _yaml(text: str) -> Any:
    import yaml  # noqa: PLC0415 - of an extra, and only for such files

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error).replace("\n", " ")) from error


class TargetList:
    """Addresses and a file together.  Raises ValueError for what cannot be read at first."""

    def __init__(self, urls: Sequence[str] = (), path: Path | None = None) -> None:
        self._given = [make_target(url) for url in urls]
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._targets: list[Target] = []
        if path is not None:
            try:
                self._stamp = _stamp(path)
                self._targets = read_targets(path)
            except OSError as error:
                reason = error.strerror or error
                raise ValueError(
                    f"the file of exporters, {path}, cannot be read: {reason}"
                ) from error
        if not self.targets:
            raise ValueError("no exporter to read: give an address, or a file that has one a line")

    @property
    def targets(self) -> list[Target]:
        """Each address once, the first that names it."""
        return _distinct([*self._given, *self._targets])

    def reload(self) -> bool:
        """Whether the file has changed; one that cannot be read leaves all as it is."""
        if self._path is None:
            return False
        try:
            stamp = _stamp(self._path)
            if stamp == self._stamp:
                return False
            self._stamp = stamp
            self._targets = read_targets(self._path)
        except (ValueError, OSError) as error:
            _log.error("targets_kept reason=%s", error)
            return False
        _log.info("targets_read count=%d", len(self._targets))
        return True


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size


def _distinct(targets: Iterable[Target]) -> list[Target]:
    by_url: dict[str, Target] = {}
    for target in targets:
        by_url.setdefault(target.url, target)
    return list(by_url.values())
