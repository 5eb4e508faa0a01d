"""A deterministic fleet of 1,952 GPUs in two halls, as live frames.

`variant` chooses what the fleet is like; setting `silent` stops the frames, as
a dead `watch` would, and `closing` ends every viewer's connection once.
"""

from __future__ import annotations

import asyncio
import json
import struct
import zlib
from datetime import UTC, datetime
from typing import Any

import numpy as np
from fake_alerts import FakeAlerts
from numpy.typing import NDArray

Floats = NDArray[np.float64]
START_US = 1_795_500_000_000_000
TENANTS = (
    "Meridian Language Models", "HK Bioinformatics", "Lantau Vision", "PolyU Materials", "Orchid Speech",
    "Kowloon Robotics", "HKUST Climate", "Harbour Finance AI", "CUHK Medicine", "Peak Simulation",
    "Tai Po Genomics", "Jade Games", "Star Ferry Maps", "Victoria Legal AI",
)  # fmt: skip
SHARES = (0.17, 0.12, 0.1, 0.09, 0.08, 0.07, 0.06, 0.05, 0.04, 0.03, 0.02, 0.02, 0.02, 0.02)
GPUS = 1_952
_HALLS = (("Hall 1", "H800", 128, 989.5), ("Hall 2", "A800", 116, 312.0))
_COLUMNS = ["temperature_c", "utilization", "power_w", "delivered", "state", "tenant"]


def layout() -> dict[str, Any]:
    """`GET /api/v1/layout`: four nodes of eight GPUs to a rack."""
    halls: list[dict[str, Any]] = []
    for index, (hall, model, count, pflops) in enumerate(_HALLS):
        letter = "ab"[index]
        racks: list[dict[str, Any]] = []
        for number in range(count):
            if number % 4 == 0:
                racks.append({"name": f"{letter.upper()}{number // 4 + 1:02d}", "nodes": []})
            slots = [f"0000:{bus:02x}:00.0" for bus in range(0x1B, 0x1B + 8 * 16, 16)]
            racks[-1]["nodes"].append(
                {"name": f"{letter}{number // 4 + 1:02d}n{number % 4 + 1:02d}", "model": model,
                 "slots": slots, "pflops_per_gpu": pflops / 1000}
            )  # fmt: skip
        halls.append({"name": hall, "racks": racks})
    return {
        "id": "fake-1", "site": "aisc", "title": "AI Supercomputing Centre", "time_zone": "Asia/Hong_Kong",
        "nameplate": {"precision": "fp16", "sparsity": "dense", "clock_basis": "boost"},
        "halls": halls, "gpus": GPUS,
    }  # fmt: skip


class FakeFleet:
    """Frames of a fleet whose values are functions of the frame's number."""

    def __init__(self) -> None:
        self.variant = "live"
        self.silent = False
        self.closing = False
        self.alerts = FakeAlerts()
        self.frame = 0
        self.queues: set[asyncio.Queue[bytes]] = set()
        random = np.random.default_rng(7)
        node = np.repeat(np.arange(GPUS // 8), 8)
        self._node = node
        owner = np.searchsorted(np.cumsum(SHARES), np.arange(GPUS // 8) / (GPUS // 8) + 1e-9)
        shuffled = np.repeat(
            owner[random.permutation(GPUS // 32).repeat(4) * 4 + np.tile(np.arange(4), GPUS // 32)],
            8,
        )
        self._tenant = np.where(shuffled < len(TENANTS), shuffled, -1)
        self._load = np.where(self._tenant >= 0, random.uniform(0.62, 0.98, GPUS // 8)[node], 0.0)
        self._load[random.integers(0, GPUS // 8, 26)[:, None] * 8 + np.arange(8)] = 0.0
        self._offset = random.normal(0, 2.2, GPUS)
        self._phase = random.uniform(0, 6.28, GPUS // 8)[node]
        self._nameplate = np.where(node < 128, 0.9895, 0.312)
        self._tdp = np.where(node < 128, 700.0, 400.0)

    def header(self) -> dict[str, Any]:
        """The header of the newest frame, without its columns."""
        return self._now()[0]

    def bytes(self) -> bytes:
        """The newest frame on the wire."""
        header, columns = self._now()
        text = json.dumps({**header, "columns": _COLUMNS}).encode()
        body = (
            struct.pack("<I", len(text)) + text + b"".join(column.tobytes() for column in columns)
        )
        return b"PWF1" + zlib.compress(body)

    def _now(self) -> tuple[dict[str, Any], list[NDArray[np.uint8]]]:
        beat = self.frame / 9
        load = np.clip(self._load * (1 + 0.06 * np.sin(beat + self._phase)), 0, 1)
        state, throttled = self._states(load)
        reporting = (state & 1) > 0
        temperature = np.clip(31 + 37 * load + self._offset + np.where(throttled, 19, 0), 20, 94)
        power = self._tdp * (0.13 + 0.8 * load)
        delivered = np.where((state & 2) > 0, load * 0.58, 0.0)
        header = self._header(state, load, temperature, power, delivered)
        order = [TENANTS.index(row["tenant"]) for row in self.tenants(power, delivered, load)]
        known = self.variant != "absent"
        columns = [
            np.where(reporting & known, np.round(values), 255).astype(np.uint8)
            for values in (temperature, load * 200, power / 6, delivered * 200)
        ]
        place = np.argsort(order)[self._tenant]
        rank = np.where(self._tenant < 0, 255, np.where(place < 12, place, 254))
        return header, [*columns, state, rank.astype(np.uint8)]

    def _states(self, load: Floats) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        down = np.isin(np.arange(GPUS), (203, 1_377))
        silent = np.isin(self._node, {"partial": (17, 92, 180, 181, 201)}.get(self.variant, (92,)))
        throttled = np.isin(np.arange(GPUS), (333, 338, 1_100, 765))
        state = (~down & ~silent).astype(np.uint8)
        state += 2 * ((load > 0.05) & (state > 0)).astype(np.uint8)
        state += 4 * (throttled & (state > 1)).astype(np.uint8)
        state += 8 * (down & ~silent).astype(np.uint8)
        state += 16 * (self._tenant >= 0).astype(np.uint8)
        state += 32 * ((load > 0.93) & (state > 0)).astype(np.uint8)
        return state, throttled

    def _header(
        self,
        state: NDArray[np.uint8],
        load: Floats,
        temperature: Floats,
        power: Floats,
        delivered: Floats,
    ) -> dict[str, Any]:
        reporting, active = (state & 1) > 0, (state & 2) > 0
        allocated = reporting & ((state & 16) > 0)
        plate = self._nameplate
        total = float((delivered * plate)[reporting].sum())
        time_us = START_US + self.frame * 1_000_000
        header: dict[str, Any] = {
            "time_us": time_us, "time": iso(time_us), "site": "aisc", "title": "AI Supercomputing Centre",
            "origin": "simulated", "layout": "fake-1", "frame": self.frame,
            "gpus_installed": GPUS, "gpus_reporting": int(reporting.sum()), "gpus_down": int(((state & 8) > 0).sum()),
            "gpus_allocated": int(allocated.sum()), "gpus_active": int((active & allocated).sum()),
            "gpus_idle": int((reporting & ~active).sum()), "gpus_throttled": int(((state & 4) > 0).sum()),
            "nodes_installed": GPUS // 8, "nodes_reporting": len(np.unique(self._node[reporting])),
            "pflops_nameplate": float(plate.sum()), "pflops_reporting": float(plate[reporting].sum()),
            "pflops_allocated": float(plate[allocated].sum()),
            "pflops_active": float(plate[active & allocated].sum()),
            "pflops_delivered": total, "pflops_lo": total * 0.985, "pflops_hi": total * 1.021,
            "pflops_estimated": None, "coverage": float(reporting.mean()), "method": "gpm",
            "power_kw": float(power[reporting].sum() / 1000), "power_coverage": float(reporting.mean()),
            "efficiency_gflops_w": total * 1e6 / float(power[reporting].sum()),
            "temperature_c": {"max": float(temperature.max()), "p99": float(np.percentile(temperature, 99)),
                              "median": float(np.median(temperature))},
            "lag_s": 0.4,
            "hottest": self._hottest(temperature, power, load),
            "tenants": self.tenants(power, delivered, load)[:12],
        }  # fmt: skip
        if self.variant == "absent":
            header |= dict.fromkeys(("pflops_delivered", "pflops_lo", "pflops_hi", "power_kw"))
            header |= {"efficiency_gflops_w": None, "temperature_c": None, "coverage": 0.0, "hottest": [],
                       "pflops_estimated": 512.3, "method": "none", "power_coverage": 0.0}  # fmt: skip
        return header

    def _hottest(self, temperature: Floats, power: Floats, load: Floats) -> list[dict[str, Any]]:
        return [
            {"gpu": f"{node_name(int(i) // 8)}·{i % 8}", "node": node_name(int(i) // 8), "slot": int(i % 8),
             "temperature_c": float(temperature[i]), "margin_c": float(87 - temperature[i]), "power_w": float(power[i]),
             "utilization": float(load[i]), "tenant": TENANTS[self._tenant[i]] if self._tenant[i] >= 0 else None}
            for i in np.argsort(temperature)[::-1][:10]
        ]  # fmt: skip

    def tenants(self, power: Floats, delivered: Floats, load: Floats) -> list[dict[str, Any]]:
        """Every tenant's sums, in order of share."""
        rows: list[dict[str, Any]] = []
        for rank, tenant in enumerate(TENANTS):
            own = self._tenant == rank
            rows.append(
                {"tenant": tenant, "gpus": int(own.sum()), "active": int((own & (load > 0.05)).sum()),
                 "pflops": float((delivered * self._nameplate)[own].sum()),
                 "pflops_nameplate": float(self._nameplate[own].sum()),
                 "power_kw": float(power[own].sum() / 1000), "utilization": float(load[own].mean())}
            )  # fmt: skip
        return sorted(rows, key=lambda row: row["pflops"], reverse=True)

    def history(self) -> dict[str, Any]:
        """Fifteen minutes before the newest frame."""
        now, seconds = self.header(), np.arange(-899, 1)
        wave = 1 + 0.02 * np.sin(seconds / 60) + 0.004 * np.sin(seconds * 1.7)
        scaled: dict[str, Any] = {
            "pflops_delivered": now["pflops_delivered"], "power_kw": now["power_kw"],
            "gpus_active": now["gpus_active"], "temperature_max_c": now["temperature_c"] and now["temperature_c"]["max"],
        }  # fmt: skip
        return {
            "time_us": [now["time_us"] + int(second) * 1_000_000 for second in seconds],
            "pflops_allocated": [now["pflops_allocated"]] * len(seconds),
            "gpus_reporting": [now["gpus_reporting"]] * len(seconds),
            **{
                name: [None if value is None else float(value * part) for part in wave]
                for name, value in scaled.items()
            },
        }

    async def run(self) -> None:
        """Publishes a frame each 0.2 s, five times as fast as life so that tests are short."""
        while True:
            await asyncio.sleep(0.2)
            if self.closing:
                self._publish(b"")
                self.closing = False
            if self.silent or self.variant == "starting":
                continue
            self.frame += 1
            self._publish(self.bytes())

    def _publish(self, frame: bytes) -> None:
        for queue in self.queues:
            if not queue.full():
                queue.put_nowait(frame)


def node_name(index: int) -> str:
    """Name of the node at a place in the layout."""
    hall, place = ("a", index) if index < 128 else ("b", index - 128)
    return f"{hall}{place // 4 + 1:02d}n{place % 4 + 1:02d}"


def iso(time_us: int) -> str:
    """A moment as the API writes it."""
    return (
        datetime.fromtimestamp(time_us / 1e6, UTC)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z")
    )
