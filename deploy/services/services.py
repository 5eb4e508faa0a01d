#!/usr/bin/env python3
"""A real Kafka, InfluxDB and PostgreSQL for tests and trials, with or without Docker.

    python3 deploy/services/services.py start|stop|status [--kafka] [--influx] [--postgres]
                                        [--dir DIR] [--install]

Without a name `start` means Kafka and InfluxDB; PostgreSQL has to be named, since
books in SQLite need no service.  It prints the addresses as settings that
`petawatch` reads, one a line, and finds what runs already.  For each service it
takes the first that there is: an address in the environment, what is in the
cache (PETAWATCH_CACHE, else ~/.cache/petawatch), a Docker engine, the recipe
(Kafka's jars from Maven, InfluxDB built from its Go module, PostgreSQL from
Debian's packages).  Exit status 3: one cannot be had, and the last lines say
why.  Needs Python's own library only.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import influx_node
import kafka_node
import postgres_node
from processes import MissingError, Settings, alive, say, stop

_STARTS: dict[str, Callable[..., Settings]] = {
    "kafka": kafka_node.start,
    "influx": influx_node.start,
    "postgres": postgres_node.start,
}
_USUAL = ("kafka", "influx")
_VARIABLES = {
    "kafka": ("PETAWATCH_BUS", ("kafka",)),
    "influx": ("PETAWATCH_STORE", ("influxdb",)),
    "postgres": ("PETAWATCH_BOOKS", ("postgresql", "postgresql+psycopg")),
}
"""By service the setting that names it, and the schemes that mean it."""
_AT_HAND: dict[str, Callable[[Path], bool]] = {
    "kafka": kafka_node.at_hand,
    "influx": influx_node.at_hand,
    "postgres": postgres_node.at_hand,
}
_ANSWERS: dict[str, Callable[[str], bool]] = {
    "kafka": kafka_node.answers,
    "influx": influx_node.answers,
    "postgres": postgres_node.answers,
}


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("do", choices=("start", "stop", "status"))
    parser.add_argument("--kafka", action="store_true", help="only Kafka")
    parser.add_argument("--influx", action="store_true", help="only InfluxDB")
    parser.add_argument("--postgres", action="store_true", help="only PostgreSQL")
    parser.add_argument(
        "--dir", type=Path, help="keep data here (default: a temporary folder, removed by stop)"
    )
    parser.add_argument(
        "--install", action="store_true", help="install missing Debian packages (as root)"
    )
    parser.add_argument("--cached", action="store_true", help="never fetch or build anything")
    options = parser.parse_args(arguments)
    names = [name for name in _STARTS if getattr(options, name)]
    if not names:
        # What runs is shown and stopped in any case.
        names = list(_USUAL if options.do == "start" else _STARTS)
    cache = Path(os.environ.get("PETAWATCH_CACHE") or Path.home() / ".cache" / "petawatch")
    with _state(cache) as state:
        if options.do == "start":
            return _start(names, state, cache, options)
        if options.do == "stop":
            return _stop(names, state)
        return _status(names, state)


@contextmanager
def _state(cache: Path) -> Generator[dict[str, Settings]]:
    """What runs, kept in a file for the owner's eyes; one program at a time sees it."""
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / "services.json"
    with (cache / "services.lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        state: dict[str, Settings] = (
            json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        )
        try:
            yield state
        finally:
            unfinished = path.with_suffix(".new")
            unfinished.unlink(missing_ok=True)
            unfinished.touch(mode=0o600)
            unfinished.write_text(json.dumps(state), encoding="utf-8")
            unfinished.replace(path)


def _start(
    names: list[str], state: dict[str, Settings], cache: Path, options: argparse.Namespace
) -> int:
    status = 0
    for name in names:
        if given := _given(name):
            print(given, flush=True)
            continue
        try:
            if not _well(name, state):
                if options.cached and not _AT_HAND[name](cache):
                    raise MissingError(
                        f"{name} is not there yet: run python3 deploy/services/services.py start once"
                    )
                _stop([name], state)
                state[name] = _launch(name, cache, options)
            print(_settings(name, state[name]), flush=True)
        except MissingError as missing:
            say(str(missing))
            status = 3
    return status


def _launch(name: str, cache: Path, options: argparse.Namespace) -> Settings:
    temporary = options.dir is None
    data = Path(tempfile.mkdtemp(prefix="petawatch-")) if temporary else options.dir
    try:
        settings = _STARTS[name](cache, data / name, may_install=options.install)
    except BaseException:
        if temporary:
            shutil.rmtree(data, ignore_errors=True)
        raise
    return {**settings, "temporary": str(data) if temporary else None}


def _given(name: str) -> str | None:
    """The settings of a service that the environment names, where it answers."""
    variable, schemes = _VARIABLES[name]
    url = os.environ.get(variable, "")
    if urlsplit(url).scheme not in schemes:
        return None
    if any(_ANSWERS[name](address) for address in urlsplit(url).netloc.split(",")):
        token = os.environ.get("PETAWATCH_INFLUX_TOKEN", "")
        return f"{variable}={url}" + (
            f"\nPETAWATCH_INFLUX_TOKEN={token}" if name == "influx" else ""
        )
    say(f"{variable} is given and does not answer: {url}")
    return None


def _well(name: str, state: dict[str, Settings]) -> bool:
    settings = state.get(name)
    return settings is not None and alive(settings) and _ANSWERS[name](settings["address"])


def _settings(name: str, settings: Settings) -> str:
    if name == "kafka":
        return f"PETAWATCH_BUS=kafka://{settings['address']}"
    if name == "postgres":
        return f"PETAWATCH_BOOKS=postgresql://{postgres_node.USER}@{settings['address']}/postgres"
    store = f"PETAWATCH_STORE=influxdb://{settings['address']}?org={influx_node.ORG}"
    return f"{store}\nPETAWATCH_INFLUX_TOKEN={settings['token']}"


def _stop(names: list[str], state: dict[str, Settings]) -> int:
    for name in names:
        settings = state.pop(name, None)
        if settings is None:
            continue
        stop(settings)
        if settings["temporary"]:
            shutil.rmtree(settings["temporary"], ignore_errors=True)
    return 0


def _status(names: list[str], state: dict[str, Settings]) -> int:
    for name in names:
        settings = state.get(name)
        if settings is None or not alive(settings):
            print(f"{name}: not running")
            continue
        answer = "answers" if _ANSWERS[name](settings["address"]) else "does not answer"
        print(
            f"{name}: {answer} at {settings['address']}, {settings.get('pid') or settings.get('container')}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
