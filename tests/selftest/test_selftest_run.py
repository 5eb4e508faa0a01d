"""The self-test finds nothing where nothing is wrong, and every damage."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from stack_fixtures import Influx

from pipeline.selftest.run import Report, SelftestOptions, run_selftest
from pipeline.settings import Settings

PETAWATCH = Path(sys.executable).with_name("petawatch")


async def run(tmp_path: Path, *, workers: int = 1, sabotage: str | None = None) -> Report:
    options = SelftestOptions("demo", 1.5, workers, seed=3, sabotage=sabotage)
    return await run_selftest(Settings(data=tmp_path, flush_s=0.5), options)


@pytest.mark.parametrize("workers", [1, 3])
async def test_exact_with_any_number_of_workers(tmp_path: Path, workers: int) -> None:
    report = await run(tmp_path, workers=workers)
    assert [check for check in report.checks if not check.ok] == []
    assert report.ok
    assert report.gpu_samples == 64 * 90
    totals = {check.name: check.actual for check in report.checks}
    assert totals["records stored"] == 8 * 90
    assert min(totals[name] for name in ("energy_mj", "gflop", "active_us", "idle_us")) > 0


async def test_exact_with_every_telemetry_fault_and_many_of_the_hardware(tmp_path: Path) -> None:
    options = SelftestOptions("demo", 6, 2, seed=5, faults="random:20000", telemetry_faults="all")
    report = await run_selftest(Settings(data=tmp_path, flush_s=0.5), options)
    assert [check for check in report.checks if not check.ok] == []
    totals = {check.name: check.actual for check in report.checks}
    assert totals["records refused"] > 0
    assert totals["records stored"] + totals["records refused"] < 8 * 360
    assert totals["down_us"] > 0


@pytest.mark.parametrize("kind", ["drop", "shift", "alter", "swap-tenant"])
async def test_every_damage_is_found(tmp_path: Path, kind: str) -> None:
    report = await run(tmp_path, sabotage=kind)
    assert not report.ok


async def test_a_part_stored_twice_changes_nothing(tmp_path: Path) -> None:
    assert (await run(tmp_path, sabotage="twice")).ok


def test_the_command_says_so_in_json_and_by_its_status(tmp_path: Path) -> None:
    command = [PETAWATCH, "selftest", "--site", "demo", "--minutes", "0.5", "--json"]
    environ = {"PATH": "/usr/bin:/bin", "PETAWATCH_DATA": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    report = json.loads(done.stdout)
    assert (done.returncode, report["ok"], report["bus"], report["store"]) == (
        0, True, "sqlite", "duckdb",
    )  # fmt: skip
    assert {"name", "expected", "actual", "ok"} == set(report["checks"][0])
    damaged = subprocess.run(
        [*command, "--sabotage", "alter"], capture_output=True, text=True, check=False, env=environ
    )
    assert (damaged.returncode, json.loads(damaged.stdout)["ok"]) == (1, False)


@pytest.mark.stack
@pytest.mark.parametrize("kind", [None, "drop", "shift", "alter", "swap-tenant", "twice"])
async def test_on_the_real_stack_with_two_workers(
    tmp_path: Path, kafka_url: str, influx: Influx, kind: str | None
) -> None:
    settings = Settings(
        data=tmp_path, bus=kafka_url, store=influx.store, influx_token=influx.token, flush_s=0.5
    )
    report = await run_selftest(settings, SelftestOptions("demo", 1.5, 2, sabotage=kind))
    assert report.ok == (kind in {None, "twice"}), report.checks
    assert (report.bus, report.store) == ("kafka", "influxdb")
