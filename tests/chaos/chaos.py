"""`make chaos`: everything is killed, again and again, and the ledger must not show it.

    python tests/chaos/chaos.py [--hours 24] [--kills 100] [--seed 1] [--report FILE]

A real Kafka and a real InfluxDB of its own; the report is JSON on standard
output.  Exit status 1: a row differs from the undisturbed run's.  Exit status
3: there are no such services here (`make services` makes them).
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import click
import msgspec
from chaos_processes import MissingServicesError
from chaos_run import ChaosOptions, run_chaos


@click.command(help="Kills everything, again and again, and compares the ledger with another.")
@click.option("--site", default="demo", show_default=True, help="Simulated site.")
@click.option("--hours", default=24.0, show_default=True, help="Simulated.")
@click.option("--kills", default=100, show_default=True)
@click.option("--pauses", default=15, show_default=True, help="SIGSTOP for some seconds.")
@click.option("--fulls", default=6, show_default=True, help="Full disks for some seconds.")
@click.option("--seed", default=1, show_default=True)
@click.option("--gap", "gap_s", default=3.0, show_default=True, help="Mean seconds between two.")
@click.option("--interval", "interval_s", default=5.0, show_default=True,
              help="Simulated seconds between two records of a node.")  # fmt: skip
@click.option("--postgres/--no-postgres", help="Books in a PostgreSQL, which is killed too.")
@click.option("--keep/--no-keep", help="Leaves the folder with all logs.")
@click.option("--report", type=click.Path(path_type=Path, dir_okay=False), help="File for it.")
def main(report: Path | None, **options: float | str | bool) -> None:
    """Exits with 1 on any difference."""
    # Whoever ends this run must not leave its services behind.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        found = run_chaos(msgspec.convert(options, ChaosOptions))
    except MissingServicesError as missing:
        click.echo(str(missing), err=True)
        sys.exit(3)
    text = msgspec.json.format(msgspec.json.encode(found)).decode()
    if report is not None:
        report.write_text(text, encoding="utf-8")
    click.echo(text)
    sys.exit(0 if found.ok else 1)


if __name__ == "__main__":
    main()
