"""`petawatch selftest`."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec

from collectors.kit.options import setting_options
from pipeline.commands import stages
from pipeline.commands.wiring import load_settings
from pipeline.selftest import sabotage
from pipeline.selftest.bounds import WITHIN
from pipeline.selftest.run import Report, SelftestOptions, run_selftest
from pipeline.settings import Settings


@click.command(help="Sends a simulation through this installation and compares every total.")
@setting_options(
    Settings, "bus", "store", "influx_token", "flush_s", "raw_interval_s", "gpu_partitions"
)
@click.option("--site", default="demo", show_default=True, help="Simulated site.")
@click.option("--minutes", default=10.0, show_default=True, type=click.FloatRange(0.1, 7 * 1440))
@click.option("--hours", type=click.FloatRange(0.01, 7 * 24), help="Instead of --minutes.")
@click.option(
    "--faults",
    default="none",
    show_default=True,
    help="Of the hardware: none, random, or random:TIMES the published rates.",
)
@click.option("--telemetry-faults", default="none", show_default=True,
              help="none, all, or kinds with commas between.")  # fmt: skip
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 64))
@click.option("--seed", default=1, show_default=True)
@click.option(
    "--sabotage", "damage", type=click.Choice(sabotage.KINDS),
    help="Damage what was stored; the test must then fail (with `twice` it must not).",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def selftest(
    *,
    config: Path | None,
    site: str,
    minutes: float,
    hours: float | None,
    faults: str,
    telemetry_faults: str,
    workers: int,
    seed: int,
    damage: str | None,
    as_json: bool,
    **options: object,
) -> None:
    """Exits with 1 on any difference."""
    settings = load_settings(config, options)
    length = minutes if hours is None else hours * 60
    test = SelftestOptions(site, length, workers, seed, damage, faults, telemetry_faults)
    reports: list[Report] = []

    async def run() -> None:
        reports.append(await run_selftest(settings, test))

    stages.run_until_done(run())
    report = reports[0]
    click.echo(msgspec.json.encode(report).decode() if as_json else table(report))
    sys.exit(0 if report.ok else 1)


def table(report: Report) -> str:
    """The report for people."""
    width = max(len(check.name) for check in report.checks)
    lines = [f"{'check':<{width}}  {'expected':>24}  {'actual':>24}"]
    for check in report.checks:
        mark = "ok" if check.ok else "DIFFERS"
        lines.append(f"{check.name:<{width}}  {check.expected:>24,}  {check.actual:>24,}  {mark}")
    lines.append(
        f"{report.gpu_samples:,} GPU-samples through {report.bus} and {report.store} with "
        f"{report.workers} worker(s): {report.cpu_s} s of CPU, {report.wall_s} s"
    )
    bounds = report.bounds
    lines.append(
        f"Of {bounds.days} days of tenants {bounds.close} within {WITHIN:.1%} by themselves,"
        f" {bounds.outside} outside of what the ledger states,"
        f" {bounds.misled} more left out (a node lied about its name or clock); furthest off:"
    )
    known = [(one, ", all of it known") for one in bounds.worst_known]
    lines += [
        f"  {one.figure}: {one.relative:+.4%} ({one.tenant}, {one.day}{how})"
        for one, how in [*((one, "") for one in bounds.worst), *known]
    ]
    lines.append("All equal." if report.ok else "Not equal: see above.")
    return "\n".join(lines)
