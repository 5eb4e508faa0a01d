"""Reservations, maintenance windows and corrections; tenants; why a GPU is whose it is."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import msgspec
from fastapi import APIRouter, Query, Response

from collectors.contract.topics import ALLOC, PRECEDENCE, Allocation
from pipeline.api import models_site_acts as models
from pipeline.api import whose
from pipeline.api.actor import Actor, Acts
from pipeline.api.deps import Api, Served, UsageReader, json_response
from pipeline.api.problems import ProblemError
from pipeline.books.acts import Outbox
from pipeline.books.corrections import CORRECTION, correction_id
from pipeline.books.reservations import SOURCE, decision, last_word, standing
from pipeline.books.why import why as explain

router = APIRouter(prefix="/api/v1", tags=["allocations"])
_MIG_SLICES = 7


def _books(api: Api) -> UsageReader:
    if api.deps.books is None:
        raise ProblemError(503, "This server has no books; ask one that runs the role books.")
    return api.deps.books


async def _standing(api: Api, kind: str) -> list[Allocation]:
    return await _books(api).ask(lambda one, _: standing(one, kind))


def _listed(found: Sequence[Allocation]) -> Response:
    return json_response({"allocations": [msgspec.to_builtins(one) for one in found]})


async def _decide(
    api: Api, acts: Outbox, actor: str, action: str, one: Allocation, **detail: Any
) -> Response:
    await acts.act(decision(actor, action, one, api.deps.topic_prefix + ALLOC, detail))
    return json_response({"allocation": msgspec.to_builtins(one)})


@router.get("/tenants/file", response_model=models.TenantsAnswer, summary="The tenants file")
async def tenants_file(api: Served) -> Response:
    """Who is who, and by which names schedulers and nodes know them, each with its dates."""
    file = api.deps.tenants()
    rows = [msgspec.to_builtins(one) for one in file.tenants]
    return json_response({"tenants": rows, "names": [one._asdict() for one in file.names]})


@router.get("/reservations", response_model=models.Standing, summary="Reservations")
async def reservations(api: Served) -> Response:
    """All that stand, by file and by API, past ones too."""
    return _listed(await _standing(api, "reservation"))


@router.post("/reservations", response_model=models.Decided, summary="Reserve GPUs")
async def reserve(api: Served, actor: Actor, acts: Acts, body: models.ReservationIn) -> Response:
    """Gives GPUs, or slices of them, to a tenant for a time; a scheduler's word goes before it."""
    whose.check(api.deps.tenants(), body.tenant, body.project)
    from_us, to_us = whose.between(api, body.from_, body.to)
    one = Allocation(
        SOURCE, f"r-{secrets.token_hex(4)}", body.tenant, body.project, "",
        whose.subjects(api, body.nodes, body.slots), from_us, to_us, kind="reservation",
        known_us=api.deps.clock.wall_us(), precedence=PRECEDENCE["static"],
        shared=body.slices is not None, weight=body.slices or 1,
        parts=0 if body.slices is None else _MIG_SLICES,
    )  # fmt: skip
    return await _decide(api, acts, actor, "reservation.set", one, note=body.note)


@router.get("/maintenance", response_model=models.Standing, summary="Maintenance windows")
async def windows(api: Served) -> Response:
    """All that stand, by file and by API, past ones too."""
    return _listed(await _standing(api, "maintenance"))


@router.post("/maintenance", response_model=models.Decided, summary="Take GPUs out of service")
async def maintain(api: Served, actor: Actor, acts: Acts, body: models.WindowIn) -> Response:
    """A window goes before every claim: its time is nobody's bill."""
    from_us, to_us = whose.between(api, body.from_, body.to)
    one = Allocation(
        SOURCE, f"m-{secrets.token_hex(4)}", "", "", "",
        whose.subjects(api, body.nodes, body.slots), from_us, to_us, kind="maintenance",
        known_us=api.deps.clock.wall_us(),
    )  # fmt: skip
    return await _decide(api, acts, actor, "maintenance.set", one, note=body.note)


At = Annotated[str | None, Query(description="End it then, instead of as if it never was.")]


async def _end(api: Api, acts: Outbox, actor: str, kind: str, key: str, at: str | None) -> Response:
    found = {one.id: one for one in await _standing(api, kind)}
    one = found.get(key)
    if one is None:
        raise whose.unknown_id(kind, key, found)
    if one.source != SOURCE:
        text = (
            f"{key} stands in the tenants file: change it there."
            if one.source == "file"
            else (f"{key} is of the source {one.source}: correct it by POST /api/v1/corrections.")
        )
        raise ProblemError(422, text)
    changes: dict[str, Any] = {"deleted": True}
    if at is not None:
        at_us = whose.site_time(api, at, "at")
        if at_us <= one.from_us:
            raise ProblemError(
                422, "at must be later than its beginning; leave it out to delete it."
            )
        if one.to_us is not None and at_us >= one.to_us:
            raise ProblemError(
                422, "It ends by then as it is; at only shortens it. Hand in another for longer."
            )
        changes = {"to_us": at_us}
    ended = msgspec.structs.replace(one, known_us=api.deps.clock.wall_us(), **changes)
    return await _decide(api, acts, actor, f"{kind}.delete", ended)


@router.delete("/reservations/{key}", response_model=models.Decided, summary="End a reservation")
async def end_reservation(
    api: Served, actor: Actor, acts: Acts, key: str, at: At = None
) -> Response:
    """Ends it at a time, or takes it back as if it never was."""
    return await _end(api, acts, actor, "reservation", key, at)


@router.delete("/maintenance/{key}", response_model=models.Decided, summary="End a window")
async def end_window(api: Served, actor: Actor, acts: Acts, key: str, at: At = None) -> Response:
    """Ends it at a time, or takes it back as if it never was."""
    return await _end(api, acts, actor, "maintenance", key, at)


@router.get("/corrections", response_model=models.Standing, summary="Corrections that stand")
async def corrections(api: Served) -> Response:
    """Each stands in the stead of the record that its id names, `SOURCE ID`."""
    return _listed(await _standing(api, CORRECTION))


@router.post("/corrections", response_model=models.Decided, summary="Correct an allocation")
async def correct(api: Served, actor: Actor, acts: Acts, body: models.CorrectionIn) -> Response:
    """Stands in the stead of a record, whatever its source sends of it later; the record itself
    stays in the books.  A second correction of a record takes the place of the first."""
    key = (body.source, body.id)
    told = await _books(api).ask(lambda one, _: last_word(one, key))
    if told is None or body.source == CORRECTION:
        raise ProblemError(422, f"There is no record {body.id!r} of the source {body.source!r}."
                                " GET /api/v1/allocations shows those of a time.")  # fmt: skip
    changes = whose.corrected(api, told, body)
    one = msgspec.structs.replace(
        told, source=CORRECTION, id=correction_id(*key), deleted=False,
        known_us=api.deps.clock.wall_us(), **changes,
    )  # fmt: skip
    return await _decide(api, acts, actor, "correction.set", one, reason=body.reason)


@router.delete("/corrections", response_model=models.Decided, summary="Withdraw a correction")
async def withdraw(api: Served, actor: Actor, acts: Acts, source: str, id: str) -> Response:  # noqa: A002
    """What the source itself says of the record holds again."""
    key = correction_id(source, id)
    found = {one.id: one for one in await _standing(api, CORRECTION)}
    if key not in found:
        raise whose.unknown_id("correction", key, found)
    gone = msgspec.structs.replace(found[key], deleted=True, known_us=api.deps.clock.wall_us())
    return await _decide(api, acts, actor, "correction.delete", gone)


@router.get("/why", response_model=models.WhyAnswer, summary="Why a GPU was whose it was")
async def why(
    api: Served,
    gpu: Annotated[str, Query(description="node/slot, node/index, or a UUID.", max_length=200)],
    at: str,
    known: Annotated[str | None, Query(description="As known at that time; now.")] = None,
) -> Response:
    """Who owned it, by which record of which source, since when that is known, which line of the
    tenants file says whose it is, and what lost against it."""
    at_us = whose.site_time(api, at, "at")
    known_us = None if known is None else whose.site_time(api, known, "known")
    node, slot = whose.gpu(api, gpu, at_us)
    told = await _books(api).ask(lambda one, site: explain(one, site, node, slot, at_us, known_us))
    zone = ZoneInfo(api.deps.inventory().time_zone)
    return json_response(whose.why_row(told, zone))
