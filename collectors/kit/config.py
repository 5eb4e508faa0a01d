"""Settings: defaults ← TOML file ← environment ← options, into one typed, frozen object.

A struct of settings is the only list of them: its fields' types, bounds and
texts make the checks, the command line's help and the table in the docs.  What
is wrong is refused with the place it stands in and what to write instead.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args, get_type_hints

import msgspec
import msgspec.structs

from collectors.kit.toml_file import ConfigError, closest, line_of, read_toml

PREFIX = "PETAWATCH_"
DEFAULT_FILE = "petawatch.toml"
OTHER_VARIABLES = {
    "CONFIG": "Settings file, where `--config` does not name one.",
    "LOG_LEVEL": "`debug`, `info`, `warning` or `error`.",
    "HEARTBEAT": "File touched every 5 s while a process is alive, for health checks.",
    "NODE": "The agent's node name, as `PETAWATCH_AGENT_NODE`.",
    "SPOOL": "The agent's spool file, as `PETAWATCH_AGENT_SPOOL`.",
    "AGENT_CONFIG": "The agent's settings file, where `--config` does not name one.",
    "JOBS": "Folder that Slurm's prolog and epilog of `deploy/slurm` write into.",
    "CACHE": "Where the real services for tests are kept; else `~/.cache/petawatch`.",
    "REQUIRE_STACK": "1: tests fail where the real services cannot be had.",
    "REQUIRE_BROWSER": "1: tests fail where there is no Chromium.",
}
"""Names after the prefix that are no settings of a struct."""
AGENT_PREFIX = PREFIX + "AGENT_"
"""Of the node agent's own variables, so that none of them is taken for another program's."""
SLURM_PREFIX = PREFIX + "SLURM_"
"""Likewise of the Slurm watcher's."""
_log = logging.getLogger(__name__)


class SetupError(RuntimeError):
    """Something outside can never work as configured (a wrong token, a file that another
    process has open); the message says what to do.  Parts raise subclasses."""


class BadValueError(ValueError):
    """Raised by a struct's `__post_init__` for a value that is typed well and still impossible."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text)
        self.key = key


class SettingsStruct(msgspec.Struct, frozen=True, kw_only=True):
    """Base of every struct of settings.

    Fields are `Annotated[type, setting("text", …)]` with a default.  What a
    program reads is named by its struct: the variables' `prefix`, of which
    PREFIXCONFIG names the file, and the `file` that is read where none is named.
    """

    prefix: ClassVar[str] = PREFIX
    file: ClassVar[str] = DEFAULT_FILE

    def __repr__(self) -> str:
        shown = (
            f"{item.name}={'…' if item.secret else repr(getattr(self, item.name))}"
            for item in describe(type(self))
            if not item.secret or getattr(self, item.name) is not None
        )
        return f"{type(self).__name__}({', '.join(shown)})"


S = TypeVar("S", bound=SettingsStruct)


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a setting's annotation carries beside its type."""

    text: str
    ge: float | None
    le: float | None
    secret: bool


def setting(
    text: str, *, ge: float | None = None, le: float | None = None, secret: bool = False
) -> Meaning:
    """What a setting means, its closed bounds, and whether it must never be shown.

    A secret `x` may also be given as `x_file`, a file that holds it alone.
    """
    return Meaning(text, ge, le, secret)


@dataclass(frozen=True, slots=True)
class Setting:
    """One field of a struct, described."""

    name: str
    meaning: Meaning
    type: Any
    default: Any
    """The default; None is none.  Defaults made at start are given as made now."""
    prefix: str = PREFIX

    @property
    def text(self) -> str:
        """What it means, in a sentence."""
        return self.meaning.text

    @property
    def secret(self) -> bool:
        """Whether it must never be shown."""
        return self.meaning.secret

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return self.prefix + self.name.upper()


def describe(kind: type[SettingsStruct]) -> list[Setting]:
    """All settings of a struct, in the order of their definition."""
    hints = get_type_hints(kind, include_extras=True)
    return [_describe(item, hints[item.name], kind.prefix) for item in msgspec.structs.fields(kind)]


def _describe(item: msgspec.structs.FieldInfo, hint: Any, prefix: str) -> Setting:
    declared, *extras = get_args(hint)
    meaning = next(extra for extra in extras if isinstance(extra, Meaning))
    default = item.default
    if item.default_factory is not msgspec.NODEFAULT:
        default = item.default_factory()
    return Setting(item.name, meaning, declared, default, prefix)


@dataclass(frozen=True, slots=True)
class _Given:
    """A value as somebody wrote it, and where."""

    value: object
    place: str
    typed: bool = False
    """From a file that has types of its own; else text may stand for a number."""


def load(
    kind: type[S],
    *,
    environ: Mapping[str, str],
    options: Mapping[str, object] | None = None,
    file: Path | None = None,
) -> S:
    """The settings that hold.  Options that are None were not given.

    The file is `file`, else what the variable PREFIXCONFIG names, else the
    struct's own where it exists.  Raises ConfigError.
    """
    settings = {item.name: item for item in describe(kind)}
    named = file or (
        Path(environ[kind.prefix + "CONFIG"]) if environ.get(kind.prefix + "CONFIG") else None
    )
    given = dict(_from_file(named, Path(kind.file), settings))
    given.update(_from_environment(environ, settings, kind.prefix))
    given.update(
        {
            name: _Given(value, f"option --{name.replace('_', '-')}")
            for name, value in (options or {}).items()
            if value is not None
        }
    )
    given = _secrets_read(given, settings)
    values = {name: _converted(settings[name], item) for name, item in given.items()}
    try:
        return kind(**values)
    except BadValueError as error:
        place = given[error.key].place if error.key in given else f"setting {error.key}"
        raise ConfigError(f"{place}: {error}") from error


def _known(settings: Mapping[str, Setting]) -> list[str]:
    return [*settings, *(f"{name}_file" for name, item in settings.items() if item.secret)]


def _from_file(
    named: Path | None, usual: Path, settings: Mapping[str, Setting]
) -> Iterator[tuple[str, _Given]]:
    path = named or usual
    if named is None and not path.is_file():
        return
    text, table = read_toml(path)
    for name, value in table.items():
        place = f"{path}:{line_of(text, name)}: {name}"
        if name not in _known(settings):
            raise ConfigError(f"{place}: no such setting; {closest(name, _known(settings))}")
        yield name, _Given(value, place, typed=True)


def _from_environment(
    environ: Mapping[str, str], settings: Mapping[str, Setting], prefix: str
) -> Iterator[tuple[str, _Given]]:
    known = _known(settings)
    for variable, value in environ.items():
        name = variable.removeprefix(prefix).lower()
        others = prefix == PREFIX and variable.startswith((AGENT_PREFIX, SLURM_PREFIX))
        others |= variable.removeprefix(PREFIX) in OTHER_VARIABLES
        if others or not variable.startswith(prefix):
            continue
        if name in known:
            yield name, _Given(value, f"environment variable {variable}")
            continue
        # Others may use the prefix too (an orchestrator names services so): only what
        # looks like a slip of the pen stops the start.
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
        if near:
            raise ConfigError(
                f"environment variable {variable}: no such setting; "
                f'did you mean "{prefix}{near[0].upper()}"?'
            )
        _log.warning("variable_ignored name=%s reason=no_such_setting", variable)


def _secrets_read(given: dict[str, _Given], settings: Mapping[str, Setting]) -> dict[str, _Given]:
    """Replaces each `x_file` by the secret it holds; a secret and its file at once are refused."""
    out = dict(given)
    for name in settings:
        source = out.pop(f"{name}_file", None) if settings[name].secret else None
        if source is None:
            continue
        if name in out:
            raise ConfigError(f"{source.place}: give {name} or {name}_file, not both")
        try:
            text = Path(str(source.value)).expanduser().read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError, RuntimeError) as error:  # the last: nobody's home
            raise ConfigError(f"{source.place}: {source.value} cannot be read as text") from error
        if not text:
            raise ConfigError(f"{source.place}: {source.value} is empty")
        out[name] = _Given(text, source.place)
    return out


def _converted(item: Setting, given: _Given) -> Any:
    value = given.value
    if not given.typed and isinstance(value, str):
        if item.default is None and value.strip().lower() in {"", "none", "auto"}:
            value = None
        elif isinstance(item.default, tuple):
            value = [part.strip() for part in value.split(",") if part.strip()]
    try:
        converted: Any = msgspec.convert(value, item.type, strict=given.typed, dec_hook=_path_hook)
    except msgspec.ValidationError as error:
        wanted = str(error).removeprefix("Expected ").partition(", got")[0]
        raise _refused(item, given, _in_words(wanted)) from error
    low, high = item.meaning.ge, item.meaning.le
    if isinstance(converted, int | float) and not (
        (low is None or converted >= low) and (high is None or converted <= high)
    ):
        bounds = [f"at least {low:g}"] if low is not None else []
        bounds += [f"at most {high:g}"] if high is not None else []
        raise _refused(item, given, " and ".join(bounds))
    return converted


def _refused(item: Setting, given: _Given, wanted: str) -> ConfigError:
    shown = "" if item.secret else f", not {given.value!r}"
    return ConfigError(f"{given.place}: write {wanted}{shown} ({item.text})")


_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text in quotes",
    "null": "leave it out",
    "Path": "a path in quotes",
    "array": "a list of texts",
}


def _in_words(wanted: str) -> str:
    """`float | null` as people say it."""
    kinds = [_WORDS.get(kind, kind) for kind in wanted.strip("`").split(" | ")]
    return " or ".join(kinds)


def _path_hook(kind: type[Any], value: object) -> Any:
    if kind is Path and isinstance(value, str | Path):
        try:
            return Path(value).expanduser()
        except RuntimeError as error:
            raise ValueError("a path in a home folder that there is") from error
    raise TypeError(f"Expected `{kind.__name__}`")
