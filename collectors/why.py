"""`petawatch why`: asks a running API who owned a GPU at a time, and prints the reasons."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import click

from collectors.doctor_fleet import ask, token


@click.command(help="Says who owned a GPU at a time, by which record, and what lost against it.")
@click.argument("gpu", metavar="NODE/SLOT|NODE/INDEX|UUID")
@click.argument("time", metavar="TIME")
@click.option("--known", metavar="TIME", help="As it was known then. [now]")
@click.option("--url", default="http://127.0.0.1:8080", show_default=True, help="The API.")
@click.option("--json", "as_json", is_flag=True, help="The API's answer as it is.")
def why(*, gpu: str, time: str, known: str | None, url: str, as_json: bool) -> None:
    """A time without a zone is the site's."""
    query = {"gpu": gpu, "at": time, **({} if known is None else {"known": known})}
    told = ask(url, f"/api/v1/why?{urlencode(query)}", token())
    click.echo(json.dumps(told, ensure_ascii=False, indent=2) if as_json else text(told))


def text(told: Mapping[str, Any]) -> str:
    """The answer for people."""
    lines = [f"{told['node']} {told['slot']} at {told['time']}: {_owner(told)}"]
    lines += _hour(told)
    claims: Sequence[Mapping[str, Any]] = told["claims"]
    if not claims:
        lines.append("No record of any source names it at that time.")
    if told["hour"] is not None and _differs(told) and told["hour"].get("frozen"):
        lines.append(
            "The ledger's hour has no row of this owner: it stays as it was frozen. What has been"
            f" learnt since is told by petawatch month adjustments {told['hour']['frozen']} --each."
        )
    elif told["hour"] is not None and _differs(told):
        lines.append(
            "The ledger's hour has no row of this owner. It is computed anew soon after a change;"
            " where it stays so, it was filled as a simulated past, which has no records, or its"
            " minutes are no longer kept."
        )
    for one in claims:
        lines += ["", *_claim(one)]
    return "\n".join(lines)


def _differs(told: Mapping[str, Any]) -> bool:
    """Whether the hour is computed beyond the moment, and nothing in it is the owner's."""
    owner = told["owner"]
    if told["known_us"] is not None or owner is None or told["hour"]["until_us"] <= told["time_us"]:
        return False
    names = ("tenant", "project", "job")
    return not any(
        row["owner_kind"] == owner["kind"] and all(row[name] == owner[name] for name in names)
        for row in told["ledger"]
    )


def _owner(told: Mapping[str, Any]) -> str:
    if told["model"] is None:
        return "not installed"
    if told["shares"]:
        parts = [
            f"{_named(one, one['kind'])}: {one['weight']}/{one['parts']} ({one['source']} {one['id']})"
            for one in told["shares"]
        ]
        return "shared by " + ", ".join(parts)
    return _named(told["owner"], told["owner"]["kind"])


def _named(whose: Mapping[str, Any], kind: str) -> str:
    if not whose["tenant"]:
        return kind
    project = f"/{whose['project']}" if whose["project"] else ""
    job = f", job {whose['job']}" if whose["job"] else ""
    return f"{whose['tenant']}{project}{job}"


def _hour(told: Mapping[str, Any]) -> list[str]:
    hour = told["hour"]
    if hour is None:
        return ["The ledger does not have its hour."]
    state = "final" if hour["final"] else "provisional"
    if hour.get("frozen"):
        state = f"frozen with {hour['frozen']}"
    lines = [f"In the ledger its hour is {state}:"]
    states = ("active_us", "idle_us", "down_us", "unobserved_us")
    for row in told["ledger"]:
        minutes = sum(row[name] for name in states) / 60e6
        shown = ", ".join(f"{name[:-3]} {row[name] / 60e6:.1f}" for name in states)
        lines.append(f"  {_named(row, row['owner_kind'])}: {minutes:.1f} min ({shown})")
    return lines


def _claim(one: Mapping[str, Any]) -> list[str]:
    end = one["to"] or "open"
    lines = [
        f"{one['verdict'].upper()}  {one['source']} {one['id']}: {_said(one)}",
        f"  because {one['reason']}",
        f"  {one.get('kind', 'job')} from {one['from']} to {end}; version {one['version']},"
        f" known since {one['known_from']}",
    ]
    rule = one["named_by"]
    if rule is not None:
        project = f"/{rule['project']}" if rule["project"] else ""
        lines.append(
            f"  line {rule['line']} of the tenants file: {rule['by']} {rule['name']} is"
            f" {rule['tenant']}{project}"
        )
    return lines


def _said(one: Mapping[str, Any]) -> str:
    if one.get("kind") == "maintenance":
        return "maintenance"
    names = [f"{by} {one[by]}" for by in ("account", "namespace", "user") if one.get(by)]
    whose = _named(one, "no tenant")
    return f"{whose} ({', '.join(names)})" if names else whose
