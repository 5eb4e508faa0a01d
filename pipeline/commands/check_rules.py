"""`petawatch check-rules`: reads the rules as `watch` would, and says what holds."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.commands.wiring import load_settings
from pipeline.watch.alerts.rules import Rule
from pipeline.watch.alerts.rules_file import load_rules


@click.command(name="check-rules", help="Checks the alert rules, and lists those that hold.")
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
def check_rules(*, file: Path | None) -> None:
    """Raises ConfigError with file, line and what to write instead; FILE is else the setting
    `rules`."""
    path = file or load_settings(None, {}).rules
    rules = load_rules(path)
    width = max(len(rule.name) for rule in rules)
    for rule in rules:
        click.echo(f"{rule.name:<{width}}  {rule.scope:<8}  {_condition(rule)}")
    where = "the shipped ones" if path is None else f"the shipped ones and {path}"
    click.echo(f"{len(rules)} rules hold: {where}.")


def _condition(rule: Rule) -> str:
    """`SEVERITY: QUANTITY above LEVEL for TIME, …`."""
    side = "above" if rule.above else "below"
    each = f"{rule.each} of " if rule.each else ""
    steps = [
        f"{step.severity}: {each}{rule.when.text}"
        + ("" if rule.eventful else f" {side} {step.level:g} {rule.when.unit}".rstrip())
        + (f" for {step.for_s} s" if step.for_s else "")
        for step in rule.steps
    ]
    return ", ".join(steps)
