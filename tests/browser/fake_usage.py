"""A month of usage as the API has it, for the pages' tests: figures that add up."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, HTTPException

_SHARES = {"installed": 1.0, "reporting": 0.98, "allocated": 0.78, "active": 0.5, "delivered": 0.25}
_DROPS = {
    "down": ("installed", 0.015), "unobserved": ("installed", 0.005), "maintenance": ("reporting", 0.05),
    "unallocated": ("reporting", 0.15), "idle": ("allocated", 0.28), "estimated": ("active", 0.0),
    "below_nameplate": ("active", 0.25),
}  # fmt: skip
_HOURS = 720
_DAY_US = 86_400_000_000
_FIRST_US = 1_793_462_400_000_000
"""2026-10-31T16:00:00Z: in Hong Kong November begins."""


def _figures(share: float) -> dict[str, Any]:
    return {
        "gpu_us": round(share * 1_952 * _HOURS * 3.6e9), "gpu_hours": share * 1_952 * _HOURS,
        "pflop_hours": share * 1_302.7 * _HOURS, "pflops": share * 1_302.7, "share": share,
        "share_gpu_hours": share,
    }  # fmt: skip


def fall(**when: Any) -> dict[str, Any]:
    """One waterfall."""
    published = {"name": "published", "kind": "level", **_figures(0.8)}
    levels = [
        {"name": name, "kind": "level", **_figures(_SHARES[name])}
        for name in ("allocated", "active", "delivered")
    ]
    return {
        **when, "origin": "simulated",
        "steps": [{"name": name, **_figures(share)} for name, share in _SHARES.items()],
        "drops": [{"name": name, "from": step, **_figures(share)} for name, (step, share) in _DROPS.items()],
        "bridge": [published, {"name": "idle", "kind": "drop", **_figures(0.28)}, *levels],
        "active_unallocated": _figures(0.01), "energy_mj": 3_600_000_000_000,
        "delivered": {"pflop_hours": 1.0, "pflop_hours_lo": 230_000.0, "pflop_hours_hi": 240_000.0},
    }  # fmt: skip


def _person(name: str, rank: int, hours: float) -> dict[str, Any]:
    return {
        "tenant": name, "owner_kind": "tenant", "rank": rank, "origin": "simulated", "share": 0.1,
        "gpu_hours": hours, "active_gpu_hours": hours * 0.6, "idle_gpu_hours": hours * 0.3, "pflop_hours": hours / 3,
        "pflop_hours_lo": hours / 4, "pflop_hours_hi": hours / 2, "efficiency": None if rank == 3 else 0.31,
        "idle_share": 0.33, "kwh": hours * 0.4,
    }  # fmt: skip


def routes() -> APIRouter:
    """The API's routes."""
    router = APIRouter(prefix="/api/v1/usage")
    frozen = {"2026-09": _frozen("ann")}

    def about(month: str) -> dict[str, Any]:
        if month == "2026-07":
            raise HTTPException(503, "The books do not answer now.")
        return {
            "period": month, "time_zone": "Asia/Hong_Kong", "as_of": "2026-11-24T05:00:00.000000Z",
            "final": month < "2026-11", "definition": "waterfall/1", "frozen": frozen.get(month),
        }  # fmt: skip

    @router.get("/waterfall")
    async def _waterfall(month: str, resolution: str = "total") -> dict[str, Any]:
        if month == "2026-06":
            return {**about(month), "rows": []}
        if resolution == "day":
            rows = [fall(day=f"2026-11-{day:02}") for day in range(1, 25)]
        elif resolution == "hour":
            rows = [fall(hour_us=_FIRST_US + hour * _DAY_US // 24) for hour in range(48)]
        else:
            rows = [fall()]
        return {**about(month), "rows": rows}

    @router.get("/tenants")
    async def _tenants(month: str) -> dict[str, Any]:
        people = [_person(f"tenant-{rank}", rank, 10_000.0 / rank) for rank in range(1, 331)]
        other = {**_person("", 0, 500.0), "owner_kind": "maintenance"}
        return {
            **about(month),
            "rows": people,
            "others": [other],
            "totals": [_person("", 0, 70_000.0)],
        }

    @router.get("/efficiency")
    async def _efficiency(month: str) -> dict[str, Any]:
        job = {
            "job": "48009", "tenant": "tenant-2", "project": "=cmd", "first_hour_us": _FIRST_US, "gpu_hours": 640.0,
            "idle_gpu_hours": 630.0, "activity": 0.02, "efficiency": 0.001, "kwh": 80.0,
        }  # fmt: skip
        return {**about(month), "total": 1, "rows": [job]}

    both = APIRouter()
    both.include_router(router)
    both.include_router(_months(frozen))
    return both


def _frozen(by: str) -> dict[str, Any]:
    return {
        "time": "2026-10-03T02:05:00.000000Z",
        "by": f"operator ({by})",
        "note": "",
        "sha256": "5e" * 32,
    }


def _adjusted(sign: int, tenant: str) -> dict[str, Any]:
    return {
        "month": "2026-09", "owner_kind": "tenant", "tenant": tenant, "project": "p", "origin": "measured",
        "model": "H800-SXM", "cause": "allocations", "gpu_hours": sign * 1_536.0,
        "active_gpu_hours": sign * 1_401.5, "pflop_hours": sign * 512.25, "kwh": sign * 640.0,
    }  # fmt: skip


def _months(frozen: dict[str, Any]) -> APIRouter:
    """A month may be frozen here, but for one that is refused."""
    router = APIRouter(prefix="/api/v1")

    @router.post("/months/{month}/freeze")
    async def _freeze(month: str, body: dict[str, str]) -> dict[str, Any]:
        if month == "2026-08":
            raise HTTPException(409, "2026-08 cannot be frozen. A decision is on its way.")
        frozen[month] = _frozen(body["by"]) | {"note": body["note"]}
        return {"month": month}

    @router.get("/adjustments")
    async def _adjustments(month: str) -> dict[str, Any]:
        rows = [_adjusted(-1, "tenant-2"), _adjusted(1, "tenant-9")]
        return {"month": month, "rows": rows if month == "2026-09" else []}

    return router
