"""What people write of allocations, read with helpful refusals; and answers about them as JSON."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from collectors.contract.identity import parse_slot, slot_text
from collectors.contract.inventory import InstalledSlots
from collectors.contract.site_toml import expand
from collectors.contract.tenants import Tenants
from collectors.contract.topics import Allocation, Subject
from pipeline.api.deps import Api
from pipeline.api.models_site_acts import CorrectionIn
from pipeline.api.problems import ProblemError, suggestion
from pipeline.api.ranges import parse_time, time_text
from pipeline.books.claims import Owner
from pipeline.books.why import Verdict, Why, shares_of

_MOST_NODES = 10_000


def site_time(api: Api, text: str, name: str) -> int:
    """µs since 1970 of a time; where it names no zone it is the site's.  Raises ProblemError (422)."""
    with suppress(ValueError):
        moment = dt.datetime.fromisoformat(text.replace(" ", "T"))
        if moment.tzinfo is None and not text.replace(".", "").isdigit():
            zoned = moment.replace(tzinfo=ZoneInfo(api.deps.inventory().time_zone))
            return round(zoned.timestamp() * 1e6)
    return parse_time(text, name)


def between(api: Api, from_: str, to: str | None) -> tuple[int, int | None]:
    """The bounds of a claim.  Raises ProblemError (422)."""
    from_us = site_time(api, from_, "from")
    to_us = None if to is None else site_time(api, to, "to")
    if to_us is not None and to_us <= from_us:
        raise ProblemError(422, "to must be later than from.")
    return from_us, to_us


def check(tenants: Tenants, tenant: str, project: str) -> None:
    """Refuses what the tenants file, where there is one, does not name.  Raises ProblemError (422)."""
    if not tenants.tenants:
        return
    known = tenants.by_id.get(tenant)
    if known is None:
        near = suggestion(tenant, tenants.by_id)
        raise ProblemError(422, f"The tenants file has no tenant {tenant!r}.{near}")
    if project not in known.projects and (project or known.projects):
        has = ", ".join(known.projects) or "none: leave it out"
        raise ProblemError(422, f"{tenant} has no project {project!r}; it has {has}.")


def subjects(api: Api, nodes: Sequence[str], slots: Sequence[str]) -> tuple[Subject, ...]:
    """Nodes (ranges expanded) with slots, all installed at some time.  Raises ProblemError (422)."""
    names = list(dict.fromkeys(name for pattern in nodes for name in expand(pattern)))
    try:
        packed = [parse_slot(slot) for slot in slots]
    except ValueError as error:
        raise ProblemError(422, f"slots: {error}") from error
    wrong = InstalledSlots(api.deps.inventory()).wrong(names, packed)
    if wrong is not None:
        raise ProblemError(422, ": ".join(wrong))
    if not 0 < len(names) <= _MOST_NODES:
        raise ProblemError(422, f"nodes: write from 1 to {_MOST_NODES} of them.")
    return tuple(Subject(name, tuple(slot_text(slot) for slot in packed)) for name in names)


def corrected(api: Api, told: Allocation, body: CorrectionIn) -> dict[str, Any]:
    """What a correction changes of a record.  Raises ProblemError (422)."""
    others = ("tenant", "project", "job", "nodes", "slots", "from_", "to")
    if body.nobody:
        if any(getattr(body, name) is not None for name in others):
            raise ProblemError(422, "nobody: the record then holds nothing at any time, so nothing"
                                    " else can be said of it. To shorten or move it, leave nobody"
                                    " out and write from and to.")  # fmt: skip
        return {"subjects": ()}
    from_us = told.from_us if body.from_ is None else site_time(api, body.from_, "from")
    to_us = told.to_us if body.to is None else site_time(api, body.to, "to")
    changes: dict[str, Any] = {"from_us": from_us, "to_us": to_us}
    if to_us is None:
        raise ProblemError(422, "The record is still open, and a correction does not follow it:"
                                " write `to`, or correct it once it has ended.")  # fmt: skip
    if to_us <= from_us:
        raise ProblemError(422, "to must be later than from.")
    if body.tenant is not None:
        check(api.deps.tenants(), body.tenant, body.project or "")
        # Said outright, so no name beside it may say another.
        changes |= {"tenant": body.tenant, "project": body.project or "", "account": "",
                    "namespace": "", "user": ""}  # fmt: skip
    elif body.project is not None:
        raise ProblemError(422, "project: write the tenant beside it.")
    if body.job is not None:
        changes["job"] = body.job
    if body.nodes is not None:
        changes["subjects"] = subjects(api, body.nodes, body.slots or ())
    elif body.slots is not None:
        raise ProblemError(422, "slots: write the nodes beside them.")
    return changes


def unknown_id(kind: str, key: str, known: Iterable[str]) -> ProblemError:
    """There is none such."""
    return ProblemError(404, f"There is no {kind} {key!r} that stands.{suggestion(key, known)}")


def gpu(api: Api, text: str, at_us: int) -> tuple[str, int]:
    """Node and slot of `node/slot`, `node/index`, or a UUID that is seen now.  Raises ProblemError."""
    node, slash, rest = text.partition("/")
    if not slash:
        return _by_uuid(api, text)
    inventory = api.deps.inventory()
    entries = [one for one in inventory.nodes if one.name == node]
    if not entries:
        near = suggestion(node, [one.name for one in inventory.nodes])
        raise ProblemError(404, f"There is no node {node!r}.{near}")
    if rest.isdigit():
        entry = next((one for one in entries if one.installed(at_us)), entries[-1])
        if int(rest) >= len(entry.slots):
            raise ProblemError(404, f"{node} has GPUs 0 to {len(entry.slots) - 1}.")
        return node, sorted(entry.slots)[int(rest)]
    try:
        return node, parse_slot(rest)
    except ValueError as error:
        raise ProblemError(422, f"gpu: {error}, or its index from 0") from error


def _by_uuid(api: Api, text: str) -> tuple[str, int]:
    for node, seats in api.hub.labels.items():
        for seat in seats:
            if seat.uuid and seat.uuid.lower() == text.lower():
                return node, seat.slot
    raise ProblemError(404, f"No GPU {text!r} is seen now; write node/slot or node/index.")


def why_row(told: Why, zone: ZoneInfo) -> dict[str, Any]:
    """An answer as JSON; texts of times are by the site's clock."""
    owner = told.owner
    return {
        "node": told.node,
        "slot": slot_text(told.slot),
        "time_us": told.at_us,
        "time": _local(told.at_us, zone),
        "known_us": told.known_us,
        "model": None if told.installed is None else told.installed.model,
        "owner": owner._asdict() if isinstance(owner, Owner) else None,
        "shares": [] if owner is None else shares_of(owner),
        "claims": [_claim_row(one, zone) for one in told.verdicts],
        "ledger": list(told.ledger),
        "hour": told.hour,
    }


def _claim_row(one: Verdict, zone: ZoneInfo) -> dict[str, Any]:
    said = one.version.allocation
    row: dict[str, Any] = msgspec.to_builtins(said)
    return {
        **row,
        "version": one.version.number,
        "known_from_us": one.version.known_from_us,
        "known_from": _local(one.version.known_from_us, zone),
        "from": _local(said.from_us, zone),
        "to": None if said.to_us is None else _local(said.to_us, zone),
        "verdict": one.verdict,
        "reason": one.reason,
        "named_by": None if one.rule is None else one.rule._asdict(),
    }


def _local(time_us: int, zone: ZoneInfo) -> str:
    try:
        return dt.datetime.fromtimestamp(time_us // 1_000_000, zone).isoformat()
    except (ValueError, OverflowError, OSError):
        return time_text(0) if time_us <= 0 else str(time_us)
