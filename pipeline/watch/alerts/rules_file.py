"""Rules from TOML: the shipped ones, and a site's file that changes, adds or disables some.

Whatever cannot be is refused at start with the file, the line and what to write instead.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

from collectors.contract.alerts import CONCERNS, FAMILIES, SCOPES, SEVERITIES
from collectors.kit.toml_file import ConfigError, closest, read_toml
from pipeline.watch.alerts.expressions import Expression, compare, parse, require_reachable
from pipeline.watch.alerts.rules import EACH, ONLY_WHEN, Advised, Rule, Step
from pipeline.watch.alerts.rules_sense import BadKeyError, require_place, require_sense

DEFAULT_NAME = "default_rules.toml"
_TIME = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d)")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_HEADER = re.compile(r"^\s*\[\[\s*rule\s*\]\]", re.MULTILINE)
_KEYS = (
    "name", "enabled", "scope", "when", "above", "below", "clear", "for", "keep", "severity",
    "critical", "critical_for", "each", "each_above", "each_below", "also", "only_when",
    "concerns", "family", "runbook", "title", "summary", "action", "cause", "unit", "scale", "advice_severity",
    "advice_concerns", "codes", "not_codes",
)  # fmt: skip
_NAME = re.compile(r"[a-z][a-z0-9_]{1,63}")


@dataclass(frozen=True, slots=True)
class _Table:
    """A rule as written, and where."""

    values: Mapping[str, Any]
    place: str
    text: str
    nth: int

    def error(self, key: str, text: str) -> ConfigError:
        return ConfigError(f"{self.place}:{_line(self.text, self.nth, key)}: {key}: {text}")


def load_rules(path: Path | None = None) -> list[Rule]:
    """The shipped rules, changed by a site's file where there is one.  Raises ConfigError."""
    text = (files("pipeline.watch.alerts") / DEFAULT_NAME).read_text(encoding="utf-8")
    shipped = _tables(text, tomllib.loads(text), DEFAULT_NAME)
    merged = {table.values["name"]: table for table in shipped}
    runbooks = {str(table.values.get("runbook", "")) for table in shipped}
    if path is not None:
        site_text, content = read_toml(path)
        for table in _tables(site_text, content, str(path)):
            before = merged.get(table.values["name"])
            if before is None and not {"scope", "when"} <= table.values.keys():
                near = closest(table.values["name"], list(merged))
                raise table.error(
                    "name", f"no such rule is shipped, and a new one needs scope and when; {near}"
                )
            values = {**(before.values if before else {}), **table.values}
            merged[table.values["name"]] = _Table(values, table.place, table.text, table.nth)
    beside = path.parent if path is not None else None
    enabled = [table for table in merged.values() if _enabled(table)]
    return [_checked(table, runbooks, beside) for table in enabled]


def _enabled(table: _Table) -> bool:
    said = table.values.get("enabled", True)
    if not isinstance(said, bool):
        raise table.error("enabled", f"write true or false, not {said!r}")
    return said


def _tables(text: str, content: Mapping[str, Any], place: str) -> list[_Table]:
    for key in content:
        if key != "rule":
            raise ConfigError(f"{place}: {key}: a rules file is a list of [[rule]] tables")
    if not isinstance(content.get("rule", []), list):
        raise ConfigError(f"{place}: rule: write [[rule]] with two brackets")
    tables = [
        _Table(values, place, text, nth) for nth, values in enumerate(content.get("rule", []))
    ]
    seen: set[str] = set()
    for table in tables:
        name = table.values.get("name")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise table.error("name", "write a name of small letters, digits and _")
        if name in seen:
            raise table.error("name", f"{name} stands here twice")
        seen.add(name)
        for key in table.values:
            if key not in _KEYS:
                raise table.error(key, f"no such key; {closest(key, list(_KEYS))}")
    return tables


def _line(text: str, nth: int, key: str) -> int:
    """The line of a key in the nth rule, else of the rule's header."""
    headers = [match.end() for match in _HEADER.finditer(text)]
    start = headers[nth] if nth < len(headers) else 0
    end = headers[nth + 1] if nth + 1 < len(headers) else len(text)
    found = re.compile(rf"^\s*{re.escape(key)}\s*=", re.MULTILINE).search(text, start, end)
    return 1 + text.count("\n", 0, found.end() if found else start)


def _checked(table: _Table, runbooks: set[str], beside: Path | None) -> Rule:
    try:
        rule = _rule(dict(table.values), runbooks, beside)
        require_sense(table.values, rule)
    except BadKeyError as error:
        raise table.error(error.key, str(error)) from error
    return rule


def _rule(values: dict[str, Any], runbooks: set[str], beside: Path | None) -> Rule:
    scope = _one_of(values, "scope", SCOPES, None)
    when = _guard("when", lambda: parse(_text(values, "when")))
    require_place(when, scope)
    eventful = when.name in ("event", "physics")
    above, steps = _steps(values, when, eventful=eventful)
    unit = str(values.get("unit", when.unit))
    if "unit" in values and "scale" not in values and unit != when.unit:
        raise BadKeyError("unit", f"{when.text} is in {when.unit or 'no unit'}, not {unit!r}")
    each, each_above, each_level = _each(values, when, scope)
    return Rule(
        name=values["name"],
        scope=scope,
        when=when,
        above=above,
        clear=_clear(values, above=above, level=steps[0].level),
        steps=steps,
        keep_s=_duration(values, "keep", 0),
        runbook=_runbook(values, runbooks, beside),
        summary=_text(values, "summary"),
        title=_text({"title": values["name"].replace("_", " "), **values}, "title"),
        family=_one_of(values, "family", FAMILIES, None),
        each=each,
        each_above=each_above,
        each_level=each_level,
        also=_also(values),
        advised=_advised(values),
        concerns=_one_of(values, "concerns", CONCERNS, "operator"),
        action=str(values.get("action", "")),
        cause=str(values.get("cause", "")),
        unit=unit,
        scale=_number(values, "scale", 1.0),
    )


def _steps(
    values: Mapping[str, Any], when: Expression, *, eventful: bool
) -> tuple[bool, tuple[Step, ...]]:
    severity = _one_of(values, "severity", SEVERITIES, "warning")
    for_s = _duration(values, "for", 0)
    if eventful:
        for key in ("above", "below", "clear", "critical"):
            if key in values:
                raise BadKeyError(key, f"{when.text} happens or not: leave it out")
        return True, (Step(severity, 0.5, for_s),)
    if ("above" in values) == ("below" in values):
        raise BadKeyError("above", "write one of above and below")
    above = "above" in values
    key = "above" if above else "below"
    steps = [Step(severity, _reachable(values, key, when, above=above), for_s)]
    if "critical" in values:
        level = _reachable(values, "critical", when, above=above)
        if severity == "critical" or (level <= steps[0].level) == above or level == steps[0].level:
            raise BadKeyError("critical", f"must lie beyond {key}, of a rule that is not critical")
        steps.append(Step("critical", level, _duration(values, "critical_for", for_s)))
    return above, tuple(steps)


def _reachable(values: Mapping[str, Any], key: str, when: Expression, *, above: bool) -> float:
    level = _number(values, key, None)
    if values.get("each") not in ("count", "fraction"):
        _guard(key, lambda: require_reachable(when, level, above=above))
    elif values["each"] == "fraction" and not (0 <= level < 1 if above else 0 < level <= 1):
        raise BadKeyError(key, f"a fraction is from 0 to 1: {level:g} is out of reach")
    return level


def _clear(values: Mapping[str, Any], *, above: bool, level: float) -> float:
    if "clear" not in values:
        return level
    clear = _number(values, "clear", None)
    if clear != level and (clear > level) == above:
        side = "below" if above else "above"
        raise BadKeyError("clear", f"must lie {side} the level {level:g}, or alerts never end")
    return clear


def _each(values: Mapping[str, Any], when: Expression, scope: str) -> tuple[str, bool, float]:
    own = when.name in ("event", "physics", "facility", "health", "health_rise")
    if scope == "gpu" or own:
        if "each" in values:
            raise BadKeyError("each", f"{when.text} of a {scope} needs none: leave it out")
        return "", True, 0.0
    if "each" not in values:
        how = ", ".join(EACH)
        raise BadKeyError("scope", f"GPUs of a {scope} become one by each: write one of {how}")
    each = _one_of(values, "each", EACH, None)
    given = [key for key in ("each_above", "each_below") if key in values]
    if (each in ("count", "fraction")) != (len(given) == 1):
        raise BadKeyError(
            "each", "count and fraction, and they alone, need each_above or each_below"
        )
    if not given:
        return each, True, 0.0
    above = given[0] == "each_above"
    level = _number(values, given[0], None)
    _guard(given[0], lambda: require_reachable(when, level, above=above))
    return each, above, level


def _also(values: Mapping[str, Any]) -> tuple[Any, ...]:
    only = _list(values, "only_when", str)
    for word in only:
        if word not in ONLY_WHEN:
            raise BadKeyError("only_when", f"no {word!r}; {closest(word, list(ONLY_WHEN))}")
    texts = [*(ONLY_WHEN[word] for word in only), *_list(values, "also", str)]
    return tuple(_guard("also", lambda text=text: compare(text)) for text in texts)


def _advised(values: Mapping[str, Any]) -> Advised:
    severities = _list(values, "advice_severity", str)
    for word in severities:
        if word not in SEVERITIES:
            raise BadKeyError("advice_severity", f"no {word!r}; {closest(word, list(SEVERITIES))}")
    concerns = str(values.get("advice_concerns", ""))
    if concerns and concerns not in CONCERNS:
        raise BadKeyError("advice_concerns", closest(concerns, list(CONCERNS)))
    codes, others = (_list(values, key, int) for key in ("codes", "not_codes"))
    return Advised(severities, concerns, codes, others)


def _runbook(values: Mapping[str, Any], runbooks: set[str], beside: Path | None) -> str:
    name = str(values.get("runbook", ""))
    if not name:
        raise BadKeyError("runbook", "every rule needs one: a page of docs/runbooks, or an address")
    if name in runbooks or name.startswith(("https://", "http://")):
        return name
    if beside is not None and (beside / name).is_file():
        return name
    raise BadKeyError("runbook", f"no page {name!r}; {closest(name, sorted(runbooks))}")


def _guard(key: str, made: Any) -> Any:
    try:
        return made()
    except ValueError as error:
        raise BadKeyError(key, str(error)) from error


def _text(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key)
    if not isinstance(value, str) or not value.strip():
        raise BadKeyError(key, "write text in quotes")
    return value


def _list(values: Mapping[str, Any], key: str, kind: type) -> tuple[Any, ...]:
    found = values.get(key, [])
    if not isinstance(found, list) or not all(type(one) is kind for one in cast(list[Any], found)):
        example = '["…"]' if kind is str else "[79, 95]"
        raise BadKeyError(key, f"write a list, as in {key} = {example}")
    return tuple(cast(list[Any], found))


def _one_of(values: Mapping[str, Any], key: str, known: tuple[str, ...], usual: str | None) -> str:
    value = values.get(key, usual)
    if value not in known:
        raise BadKeyError(key, f"{value!r} is none; {closest(str(value), list(known))}")
    return str(value)


def _number(values: Mapping[str, Any], key: str, usual: float | None) -> float:
    value = values.get(key, usual)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadKeyError(key, f"write a number, not {value!r}")
    return float(value)


def _duration(values: Mapping[str, Any], key: str, usual: int) -> int:
    value = values.get(key, usual)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _TIME.fullmatch(str(value))
    if match is None:
        raise BadKeyError(key, f"write 30s, 10m, 1h or 2d, not {value!r}")
    return round(float(match[1]) * _SECONDS[match[2]])
