"""`petawatch doctor --fleet`: asks a running API how each node's agent fares."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import msgspec

from collectors.doctor_gpu import grouped, lacking
from collectors.kit.checks import Check, Verdict

_TIMEOUT_S = 15.0
_MAX_BYTES = 256 * 2**20
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_CLOCK_US = 500_000
"""As for this node's own clock: above it, say so."""
_OLD_S = 900.0
"""Agents speak of themselves more often than this, whether or not anything changes."""
_SHOWN = 3
_TOKEN = "PETAWATCH_API_TOKEN"  # noqa: S105 -- the variable's name


class FleetAwayError(click.ClickException):
    """Nothing can be said of the fleet."""

    exit_code = 2


class GpuSeen(msgspec.Struct, frozen=True):
    """Of a GPU, what counts here."""

    slot: str
    parent: str = ""
    """The GPU of which it is an instance, "" for a whole one."""
    flop_method: str = "none"
    unsupported: dict[str, str] = {}
    state: str = "ok"


class NodeSeen(msgspec.Struct, frozen=True):
    """A row of `GET /api/v1/agents`."""

    node: str
    known: bool
    installed: bool
    version: str | None = None
    driver: str | None = None
    source: str | None = None
    age_s: float | None = None
    clock_offset_us: float | None = None
    spooled: int | None = None
    dropped: int | None = None
    missing: dict[str, str] = {}
    gpus: list[GpuSeen] = []
    unlisted: list[str] = []
    unheard: list[str] = []
    slots_line: str | None = None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A token goes to the server that was named and to no other."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """None follows."""


def token() -> str | None:
    """The API's token from the environment, by itself or as a file."""
    path = os.environ.get(f"{_TOKEN}_FILE")
    if path:
        try:
            return Path(path).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise FleetAwayError(
                f"{_TOKEN}_FILE: {path} cannot be read: {error.strerror}"
            ) from error
    return os.environ.get(_TOKEN)


def ask(
    url: str,
    path: str,
    secret: str | None,
    body: object | None = None,
    *,
    timeout_s: float = _TIMEOUT_S,
) -> Any:
    """The JSON of a GET, or of a POST of a body.  Raises FleetAwayError with what to do."""
    try:
        return json.loads(fetch(url, path, secret, body, timeout_s=timeout_s))
    except ValueError as error:
        raise FleetAwayError(f"{url} does not answer as Petawatch: {error}") from error


def fetch(
    url: str,
    path: str,
    secret: str | None,
    body: object | None = None,
    *,
    timeout_s: float = _TIMEOUT_S,
) -> bytes:
    """The body of a GET, or of what a POST of JSON brings.  Raises FleetAwayError with what to
    do."""
    place = urlsplit(url)
    if place.scheme not in {"http", "https"} or not place.hostname:
        raise FleetAwayError(f"--url: write http://HOST:PORT, not {url!r}")
    proxies: dict[str, str] | None = {} if place.hostname in _LOOPBACK else None
    opener = urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler(proxies))
    request = urllib.request.Request(  # noqa: S310 -- the scheme is checked above
        url.rstrip("/") + path,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Accept": "application/json", "Content-Type": "application/json"},
    )
    if secret:
        request.add_unredirected_header("Authorization", f"Bearer {secret}")
    try:
        with opener.open(request, timeout=timeout_s) as answer:
            return answer.read(_MAX_BYTES)
    except urllib.error.HTTPError as error:
        todo = f" Set {_TOKEN}, or {_TOKEN}_FILE." if error.code == 401 else _detail(error)
        error.close()
        raise FleetAwayError(f"{url} answers with status {error.code}.{todo}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise FleetAwayError(f"{url} does not answer as Petawatch: {reason}") from error


def _detail(error: urllib.error.HTTPError) -> str:
    """What the API says is wrong with the question, where it says anything."""
    try:
        problem: Any = json.loads(error.read(100_000))
        return f" {problem['detail']}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def gather(url: str) -> tuple[list[NodeSeen], dict[str, int]]:
    """All nodes, and how many GPUs of each report now where a live figure says.

    Raises FleetAwayError.
    """
    secret = token()
    try:
        nodes = msgspec.convert(ask(url, "/api/v1/agents", secret)["agents"], list[NodeSeen])
        live: list[dict[str, Any]] = ask(url, "/api/v1/nodes", secret)["nodes"]
        reporting = {
            str(row["node"]): int(row["gpus_reporting"])
            for row in live
            if row.get("gpus_reporting") is not None
        }
    except (KeyError, TypeError, msgspec.MsgspecError) as error:
        raise FleetAwayError(f"{url} answers in another form: {error}") from error
    return nodes, reporting


def fleet_checks(nodes: Sequence[NodeSeen], reporting: Mapping[str, int]) -> list[Check]:
    """A line per node, then what is mixed and what cannot be measured anywhere, in sums."""
    checks = [_node(node, reporting.get(node.node)) for node in nodes]
    checks += _mixed("Versions", [node.version for node in nodes if node.version])
    checks += _mixed("Drivers", [node.driver for node in nodes if node.driver])
    return [*checks, *_missing(nodes)]


def _node(node: NodeSeen, reporting: int | None) -> Check:
    sick = [f"{gpu.slot} {gpu.state}" for gpu in node.gpus if gpu.state != "ok"]
    if not node.known:
        return _unheard(node, reporting)
    methods = Counter(gpu.flop_method for gpu in node.gpus if not gpu.parent)
    flop = ", ".join(f"{many} × {method}" for method, many in sorted(methods.items()))
    found = ", ".join(
        filter(None, (f"{node.source} {node.version}", f"driver {node.driver}" if node.driver else "",
                      _clock(node), flop or "no GPUs", *_doubts(node)))
    )  # fmt: skip
    if node.installed and node.unlisted:
        return _misfit(node, found)
    if reporting == 0:
        return Check(node.node, Verdict.FAIL, f"silent; {found}", "See whether its agent runs.")
    if sick:
        return Check(node.node, Verdict.FAIL, f"{', '.join(sick)}; {found}", "See its events.")
    if node.installed and node.unheard:
        return _misfit(node, found)
    todo = "" if node.installed else "`petawatch draft-site` writes its entry of site.toml."
    return Check(node.node, Verdict.WARN if _doubts(node) else Verdict.OK, found, todo)


def _unheard(node: NodeSeen, reporting: int | None) -> Check:
    """A node of whose agent nothing is known."""
    if reporting:
        return Check(node.node, Verdict.WARN, f"{reporting} GPUs report, by no agent of ours")
    todo = "Start the agent there, or scrape its exporter."
    return Check(node.node, Verdict.FAIL, "no agent has said anything", todo)


def _misfit(node: NodeSeen, found: str) -> Check:
    """A node whose GPUs stand elsewhere than the inventory says."""
    said = [
        f"GPUs that the inventory lacks, so that they count for nothing: {_few(node.unlisted)}"
        if node.unlisted
        else "",
        f"GPUs of the inventory that its agent does not know: {_few(node.unheard)}"
        if node.unheard
        else "",
    ]
    where = f"in its entry of site.toml: {node.slots_line}"
    if node.unlisted:
        todo = f"Write {where}"
    elif node.slots_line:
        todo = f"Look for what has gone, with lspci there; what was taken out, leave out {where}"
    else:
        todo = "Run petawatch doctor --gpu there."
    return Check(node.node, Verdict.FAIL, "; ".join([*filter(None, said), found]), todo)


def _clock(node: NodeSeen) -> str:
    """How far its clock is from the bus's, where that is known and small."""
    offset_us = node.clock_offset_us
    if offset_us is None or abs(offset_us) > _CLOCK_US:
        return ""
    return f"clock {offset_us / 1000:+.0f} ms"


def _doubts(node: NodeSeen) -> list[str]:
    offset_us = node.clock_offset_us
    found = [
        f"clock {offset_us / 1e6:+.1f} s off" if offset_us and abs(offset_us) > _CLOCK_US else "",
        f"{node.spooled:,} records wait on its disk" if node.spooled else "",
        f"{node.dropped:,} records dropped" if node.dropped else "",
        f"last heard {node.age_s / 60:.0f} min ago" if node.age_s and node.age_s > _OLD_S else "",
        "" if node.installed else "not in the inventory",
    ]
    return [doubt for doubt in found if doubt]


def _mixed(name: str, values: Sequence[str]) -> list[Check]:
    counts = Counter(values)
    if len(counts) < 2:
        return []
    found = ", ".join(f"{value} on {many}" for value, many in counts.most_common())
    return [Check(name, Verdict.WARN, found, "Bring them to one where nothing speaks against it.")]


def _missing(nodes: Sequence[NodeSeen]) -> list[Check]:
    rows = [
        (node.node, signal, why)
        for node in nodes
        for signal, why in {
            *node.missing.items(),
            *(
                pair
                for gpu in node.gpus
                for pair in lacking(gpu.unsupported, instance=bool(gpu.parent))
            ),
        }
    ]
    checks: list[Check] = []
    for (signal, why), names in grouped(sorted(rows)).items():
        checks.append(Check(signal, Verdict.WARN, f"not given on {_few(names)}: {why}"))
    return checks


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
