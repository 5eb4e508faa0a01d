"""The file of targets: who is told of what, and how.

[[targets]]
name = "on-call"
kind = "webhook"                       # or alertmanager, message, command
url = "https://example.org/hook"
secret_file = "/etc/petawatch/hook.key"
severity = "critical"

Secrets stand in files of their own or in the environment, never here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec

from collectors.contract.alerts import CONCERNS, FAMILIES, SEVERITIES, Incident
from collectors.kit.toml_file import ConfigError, closest, line_of, read_toml

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_INDEX = re.compile(r"\$\.targets\[(\d+)\]")
_MOST = 50


class Target(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", forbid_unknown_fields=True
):
    """What all kinds have: whom they concern.  Patterns are a shell's (`*`, `?`)."""

    name: str
    severity: str = "warning"
    """The least severity that it is told of."""
    concerns: tuple[str, ...] = ("operator",)
    tenants: tuple[str, ...] = ("*",)
    families: tuple[str, ...] = ("*",)
    causes: tuple[str, ...] = ("*",)
    resolved: bool = True
    """Whether it is told of the end too."""
    timeout_s: Annotated[float, msgspec.Meta(ge=0.1, le=120)] = 10.0

    def wants(self, incident: Incident) -> bool:
        """Whether it is told of an incident."""
        grave = SEVERITIES.index(incident.severity) >= SEVERITIES.index(self.severity)
        tenants = incident.tenants or ("",)
        return (
            grave
            and incident.concerns in self.concerns
            and any(_matches(self.tenants, tenant) for tenant in tenants)
            and _matches(self.families, incident.family)
            and _matches(self.causes, incident.cause)
        )

    def tested(self, name: str) -> bool:
        """Whether a test message for `name` (empty: for all) is for it.  A command acts, on a
        node perhaps, and is run for a test only where it is named."""
        return name == self.name or (not name and not isinstance(self, CommandTarget))


def _matches(patterns: tuple[str, ...], text: str) -> bool:
    return any(fnmatchcase(text, pattern) for pattern in patterns)


class AlertmanagerTarget(Target, frozen=True, kw_only=True, tag="alertmanager"):
    """Alertmanager's API v2; open incidents are sent again every `refresh_s`."""

    url: str
    token_file: Path | None = None
    refresh_s: Annotated[float, msgspec.Meta(ge=1, le=3_600)] = 60.0


class WebhookTarget(Target, frozen=True, kw_only=True, tag="webhook"):
    """A POST of JSON, signed where a secret is given."""

    url: str = ""
    url_file: Path | None = None
    secret_file: Path | None = None


class MessageTarget(Target, frozen=True, kw_only=True, tag="message"):
    """Mail and chat through apprise: its addresses, one a line, in a file or a variable."""

    url_file: Path | None = None
    url_env: str = ""


class CommandTarget(Target, frozen=True, kw_only=True, tag="command"):
    """A program (to drain or cordon a node, say): no shell, the incident as JSON on its input."""

    argv: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=64)]
    resolved: bool = False


AnyTarget = AlertmanagerTarget | WebhookTarget | MessageTarget | CommandTarget


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    targets: tuple[AnyTarget, ...]


@dataclass(frozen=True, slots=True)
class Secrets:
    """Reads secrets when they are needed, so that one that was renewed is used at once."""

    environ: Mapping[str, str]

    def of_file(self, path: Path) -> str:
        """A secret's text.  Raises ConfigError where it cannot be read or is empty."""
        try:
            text = path.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
        if not text:
            raise ConfigError(f"{path}: is empty; write the secret into it")
        return text

    def of_variable(self, name: str) -> str:
        """A variable's value.  Raises ConfigError where it is not set."""
        text = self.environ.get(name, "").strip()
        if not text:
            raise ConfigError(f"the variable {name} is not set")
        return text


def load_targets(path: Path, environ: Mapping[str, str] = os.environ) -> tuple[AnyTarget, ...]:
    """Reads the file.  Raises ConfigError with file, line and what to write instead."""
    text, table = read_toml(path)
    try:
        targets = msgspec.convert(table, _File, dec_hook=_path).targets
    except msgspec.ValidationError as error:
        found = _INDEX.search(str(error))
        line = line_of(text, "targets", nth=int(found[1])) if found else 1
        raise ConfigError(f"{path}:{line}: {_plain(str(error))}") from error
    if len(targets) > _MOST:
        raise ConfigError(f"{path}: more than {_MOST} targets")
    names: set[str] = set()
    for number, target in enumerate(targets):
        wrong = _wrong(target, names, Secrets(environ))
        if wrong:
            line = line_of(text, "targets", nth=number)
            raise ConfigError(f"{path}:{line}: target {target.name!r}: {wrong}")
        names.add(target.name)
    return targets


def _path(kind: type[Any], value: object) -> object:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise TypeError(f"no text is a {kind.__name__}")


def _plain(text: str) -> str:
    return text.replace("$.targets[", "targets[").replace("$.", "")


def _wrong(target: AnyTarget, names: set[str], secrets: Secrets) -> str | None:
    """What is wrong with a target, with what to write instead."""
    if not _NAME.fullmatch(target.name):
        return "name: write letters, digits, dots, dashes; at most 64"
    if target.name in names:
        return "another target has this name"
    for key, given, known in (
        ("severity", (target.severity,), SEVERITIES),
        ("concerns", target.concerns, CONCERNS),
    ):
        for word in given:
            if word not in known:
                return f"{key}: no such word {word!r}; {closest(word, list(known))}"
    for pattern in target.families:
        if not any(fnmatchcase(family, pattern) for family in FAMILIES):
            return f"families: nothing is called {pattern!r}; {closest(pattern, list(FAMILIES))}"
    check: dict[type[Target], Callable[[], str | None]] = {
        AlertmanagerTarget: lambda: _wrong_url(getattr(target, "url", "")),
        WebhookTarget: lambda: _wrong_webhook(target, secrets),
        MessageTarget: lambda: _wrong_message(target, secrets),
    }
    return check.get(type(target), lambda: None)()


def _wrong_url(url: str) -> str | None:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        return f"url: write http:// or https:// and a host, not {url!r}"
    if parts.password:
        return "url: it holds a password; put the whole address into a file and name it as url_file"
    return None


def _wrong_webhook(target: AnyTarget, secrets: Secrets) -> str | None:
    if not isinstance(target, WebhookTarget):
        return None
    if bool(target.url) == (target.url_file is not None):
        return "write url, or url_file where the address is a secret"
    if target.secret_file is not None:
        secrets.of_file(target.secret_file)
    if target.url_file is not None:
        secrets.of_file(target.url_file)
        return None
    return _wrong_url(target.url)


def _wrong_message(target: AnyTarget, secrets: Secrets) -> str | None:
    if not isinstance(target, MessageTarget):
        return None
    if bool(target.url_env) == (target.url_file is not None):
        return "write url_file, or url_env with the name of a variable"
    message_urls(target, secrets)
    return None


def message_urls(target: MessageTarget, secrets: Secrets) -> list[str]:
    """Its addresses.  Raises ConfigError where there are none."""
    if target.url_file is not None:
        text = secrets.of_file(target.url_file)
    else:
        text = secrets.of_variable(target.url_env)
    lines = [line.strip() for line in text.splitlines()]
    urls = [line for line in lines if line and not line.startswith("#")]
    if not urls:
        raise ConfigError(f"target {target.name!r}: no address in {target.url_file}")
    return urls
