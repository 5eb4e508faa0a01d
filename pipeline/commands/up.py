"""`petawatch up`: a source and every role in one process."""

from __future__ import annotations

import asyncio
import os
import webbrowser
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import click

from collectors.contract.record import Origin
from collectors.contract.source import BackendUnavailableError, Source, SourceOptions
from collectors.kit.clock import Clock, SystemClock
from collectors.kit.config import ConfigError
from collectors.kit.lifecycle import Stage, run_stages, stop_signals
from collectors.kit.options import parse_speed, setting_options
from pipeline.commands import past, stages
from pipeline.commands.site import inventory_of
from pipeline.commands.wiring import (
    Installation,
    install,
    load_settings,
    make_data_folder,
    make_source,
)
from pipeline.settings import Settings


def choose_source(
    settings: Settings,
    backend: str | None,
    replay: Path | None,
    speed: float | None,
    clock: Clock,
    model: str | None = None,
    zone: str | None = None,
    faults: Mapping[str, str] | None = None,
) -> Source:
    """What to show: a recording, this machine's GPUs, or a simulated site.

    Without any of them named: this machine's GPUs.  Raises ConfigError or
    BackendUnavailableError with what to write.  `faults` are options of a simulation.
    """
    if faults and (replay is not None or backend == "nvml" or not (backend or settings.site)):
        raise ConfigError(_only_simulated(faults))
    if replay is not None:
        said = {"model": model, "zone": zone}
        extra = {name: value for name, value in said.items() if value is not None}
        return make_source("replay", SourceOptions(path=replay, speed=speed, extra=extra), clock)
    if backend == "nvml" or (backend is None and settings.site is None):
        try:
            return make_source("nvml", SourceOptions(), clock)
        except BackendUnavailableError as error:
            raise BackendUnavailableError(
                f"{error} To see a simulated centre: petawatch up --site aisc-phase1"
            ) from error
    if settings.site is not None and settings.site.endswith(".toml"):
        inventory_of(settings, clock)  # a slip in it is what matters first
        raise ConfigError(
            f"{settings.site} is a real site: run petawatch agent on its nodes and petawatch "
            "pipeline and serve here, or name a simulated one, --site aisc-phase1"
        )
    claims = settings.data / "simulated-claims.json"
    options = SourceOptions(site=settings.site, speed=speed, path=claims, extra=dict(faults or {}))
    return make_source("sim", options, clock)


def _only_simulated(faults: Mapping[str, str]) -> str:
    named = " and ".join(f"--{name.replace('_', '-')}" for name in faults)
    return f"faults can only happen to a simulated site: write --site demo beside {named}"


def exporters(
    settings: Settings, urls: Sequence[str], targets: Path | None, clock: Clock
) -> Source:
    """A fleet's exporters.  Claims are kept beside the other data, so that they outlive a restart."""
    extra = {"urls": "\n".join(urls), "state": str(settings.data / "scrape-claims.json")}
    options = SourceOptions(
        path=targets, interval_s=15.0, topic_prefix=settings.topic_prefix, extra=extra
    )
    return make_source("scrape", options, clock)


@click.command(help="Runs everything in one process and shows it in the browser.")
@setting_options(
    Settings, "site", "data", "host", "port", "bus", "store", "books", "tenants", "rules", "notify",
)  # fmt: skip
@click.option("--backend", type=click.Choice(["nvml", "sim"]), help="Where samples come from.")
@click.option("--replay", type=click.Path(exists=True, path_type=Path), help="A recording to show.")
@click.option(
    "--scrape", multiple=True, metavar="URL", help="An exporter to read; may be repeated."
)
@click.option("--scrape-targets", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="A file of exporters, one a line, or Prometheus' file_sd.")  # fmt: skip
@click.option("--scenario", type=click.Path(exists=True, dir_okay=False),
              help="A simulated site's faults, a TOML list.")  # fmt: skip
@click.option("--faults", help="A simulated site's faults: random, or random:TIMES the rates.")
@click.option("--telemetry-faults", help="Of its telemetry: all, or KIND,KIND…")
@click.option("--model", help="The recording's GPU model, where it does not name one.")
@click.option("--zone", help="The recording's time zone, where it names none.")
@click.option("--speed", default="1", callback=parse_speed, help="Times real time, or max. [1]")
@click.option("--open/--no-open", "browse", default=None, help="Open a browser. [with a display]")
def up(
    *,
    config: Path | None,
    backend: str | None,
    replay: Path | None,
    speed: float | None,
    model: str | None,
    zone: str | None,
    scenario: str | None,
    faults: str | None,
    telemetry_faults: str | None,
    scrape: tuple[str, ...],
    scrape_targets: Path | None,
    browse: bool | None,
    **options: object,
) -> None:
    """Runs until a signal."""
    settings = load_settings(config, options)
    stages.check(settings)
    clock = SystemClock()
    make_data_folder(settings)
    wrong = {"scenario": scenario, "faults": faults, "telemetry_faults": telemetry_faults}
    extra = {name: value for name, value in wrong.items() if value is not None}
    if scrape or scrape_targets is not None:
        source = exporters(settings, scrape, scrape_targets, clock)
    else:
        source = choose_source(settings, backend, replay, speed, clock, model, zone, extra)
    installation = install(settings, clock, source.inventory, series=True, books=True)
    browse = _has_display() if browse is None else browse
    stages.run_until_done(run(installation, source, lambda url: _say(url, browse=bool(browse))))


async def run(installation: Installation, source: Source, said: Callable[[str], None]) -> None:
    """Starts all parts, and stops them in the direction in which data flows."""
    stop = asyncio.Event()
    try:
        with stop_signals(stop):
            await installation.start()
            await run_stages(_stages(installation, source, said), stop, installation.clock)
    finally:
        await installation.close()


def _stages(installation: Installation, source: Source, said: Callable[[str], None]) -> list[Stage]:
    """In the order in which data flows."""
    roles = [
        _after_the_past(stage, installation, source) if stage.name == "books" else stage
        for stage in stages.role_stages(installation, installation.roles(stages.ROLES))
    ]
    board = installation.board("serve")
    app = stages.make_app(installation, board, installation.usage())
    return [
        stages.source_stage(source, installation),
        *roles,
        stages.site_stage(installation, board),
        stages.retention_stage(installation),
        stages.health_stage(installation),
        stages.serve_stage(app, installation, said),
    ]


def _after_the_past(stage: Stage, installation: Installation, source: Source) -> Stage:
    """The books of a simulated site go on from a past; those of a real one never have one."""
    settings = installation.settings
    simulated = source.origin is Origin.SIMULATED and settings.site is not None
    if not simulated or settings.past_days <= 0:
        return stage

    async def run(stop: asyncio.Event) -> None:
        await past.in_background(settings, stop)
        await stage.run(stop)

    return Stage(stage.name, run)


def _has_display() -> bool:
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _say(url: str, *, browse: bool) -> None:
    click.echo(f"Petawatch is at {url}")
    if browse:
        with suppress(webbrowser.Error):
            webbrowser.open(url)
