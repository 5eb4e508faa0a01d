"""Writes the pages of docs/ that are made from the code, so that neither can drift.

    .venv/bin/python deploy/make_docs.py

A test compares them with what is in docs/.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from collectors.agent.commands import SHARED_VARIABLES
from collectors.agent.settings import NodeSettings
from collectors.contract.catalogue import CATALOGUE, CallRead, FieldRead, Metric
from collectors.contract.schema import proto_text
from collectors.contract.xids import ACTIONS, Advice, kinds, xids
from collectors.kit.config import (
    AGENT_PREFIX,
    OTHER_VARIABLES,
    PREFIX,
    SLURM_PREFIX,
    Setting,
    SettingsStruct,
    describe,
)
from collectors.slurm.settings import SlurmSettings
from pipeline.settings import Settings, default_data

DOCS = Path(__file__).resolve().parent.parent / "docs"
_PLACE = "~/.local/share/petawatch"


def pages() -> dict[str, str]:
    """Name in docs/ → text."""
    return {
        "metrics.md": metrics_page(),
        "petawatch.proto": proto_text(),
        "settings.md": settings_page(),
        "xids.md": xids_page(),
    }


def metrics_page() -> str:
    """The catalogue as a table."""
    rows = [
        "| metric | no. | unit | kind | valid | NVML | every | meaning |",
        "|---|---|---|---|---|---|---|---|",
        *(_metric_row(metric) for metric in CATALOGUE),
    ]
    return _page(
        "Metrics",
        "One row of the catalogue (`collectors/contract/catalogue.py`) each: the same name and unit "
        "on the wire, in the stores, in the API and, behind `petawatch_`, in `/metrics`. Gauges are "
        "32-bit floats, counters cumulative integers below 2⁵³. What cannot be read is absent, "
        "never 0. A value outside its valid range becomes absent. What is read less often than at "
        "each tick stands in the record of the tick at which it was read, and in no other.",
        rows,
    )


def _metric_row(metric: Metric) -> str:
    low, high = metric.valid
    valid = f"{low:g} to {high:g}" if metric.kind.value == "gauge" else "below 2⁵³"
    kind = metric.kind.value
    if kind == "counter":
        kind += {"run": ", per run", "energy": ", per energy epoch", "device": ", of the device"}[
            metric.reset.value
        ]
    return (
        f"| `{metric.name}` | {metric.number} | {metric.unit} | {kind} | {valid} "
        f"| {_read(metric)} | {_every(metric)} | {metric.help} |"
    )


def _read(metric: Metric) -> str:
    read = metric.read
    if isinstance(read, FieldRead):
        ids = [str(read.field)] if read.field is not None else []
        ids += [
            f"{number} from R{major}.{minor}" if minor else f"{number} from R{major}"
            for (major, minor), number in read.branches
            if number is not None
        ]
        return "field " + ", ".join(ids)
    return "call" if isinstance(read, CallRead) else "integrated by the agent"


def _every(metric: Metric) -> str:
    return f"{metric.every_s:g} s" if metric.every_s else "tick"


def settings_page() -> str:
    """All settings as tables."""
    rows = [
        *_settings("Pipeline", "", Settings),
        *_settings(
            "Agent",
            f"Of `petawatch agent`, which reads `{NodeSettings.file}` where `--config` and "
            f"`{AGENT_PREFIX}CONFIG` name no other file. "
            + ", ".join(f"`{PREFIX}{name}`" for name in SHARED_VARIABLES)
            + " hold for it too.",
            NodeSettings,
        ),
        *_settings(
            "Slurm watcher",
            f"Of `petawatch watch-slurm`, which reads `{SlurmSettings.file}` where `--config` and "
            f"`{SLURM_PREFIX}CONFIG` name no other file.",
            SlurmSettings,
        ),
        "A setting marked with a key is a secret: give it as a file (`NAME_file`, "
        f"`{PREFIX}NAME_FILE`) rather than by itself. It is never shown.",
        "",
        "## Variables that are no settings",
        "",
        "| variable | meaning |",
        "|---|---|",
        *(f"| `{PREFIX}{name}` | {text} |" for name, text in OTHER_VARIABLES.items()),
    ]
    return _page(
        "Settings",
        "Defaults, then a TOML file (`--config FILE`, else `PETAWATCH_CONFIG`, else "
        "`./petawatch.toml`), then the environment, then options of the command: the later wins. "
        "Something unknown or impossible stops the start with the place it stands in and what to "
        "write instead. `{data}` in an address is the data folder.",
        rows,
    )


def _settings(title: str, text: str, kind: type[SettingsStruct]) -> list[str]:
    head = ["| setting | environment | default | bounds | meaning |", "|---|---|---|---|---|"]
    said = [text, ""] if text else []
    rows = [_setting_row(item) for item in describe(kind)]
    return [f"## {title}", "", *said, *head, *rows, ""]


def _setting_row(item: Setting) -> str:
    name = f"`{item.name}`" + (" 🔑" if item.secret else "")
    low, high = item.meaning.ge, item.meaning.le
    ends = [f"≥ {low:g}" if low is not None else "", f"≤ {high:g}" if high is not None else ""]
    bounds = ", ".join(filter(None, ends))
    text = item.text.replace("|", "\\|")
    return f"| {name} | `{item.variable}` | {_default(item.default)} | {bounds} | {text} |"


def _default(value: Any) -> str:
    if value is None or value == ():
        return ""
    if isinstance(value, tuple):
        return ", ".join(f"`{one}`" for one in value)
    if value == default_data():
        return f"`{_PLACE}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`" if value != "" else "none"


def xids_page() -> str:
    """What events mean and what to do, as tables."""
    rows = [
        "## What to do",
        "",
        "| word | meaning |",
        "|---|---|",
        *(f"| `{word}` | {text} |" for word, text in ACTIONS.items()),
        "",
        "## XIDs",
        "",
        "The text decides where a code leaves it open: 144 to 150 are `reset_gpu` where they say "
        "Fatal, 154 names what is to be done. A code that is not here is `look_up`.",
        "",
        "| XID | meaning | first | then | concerns | severity |",
        "|---|---|---|---|---|---|",
        *(_advice_row(str(code), row) for code, row in xids().items()),
        "",
        "## Other events",
        "",
        "`sxid` are errors of NVSwitches, out of the kernel log: `reset_fabric` where they say "
        "Fatal. `recovery_action` is the driver's own advice, 0 to 4: nothing, reset, reboot, "
        "drain peer-to-peer, drain and reset.",
        "",
        "| kind | meaning | first | then | concerns | severity |",
        "|---|---|---|---|---|---|",
        *(_advice_row(f"`{kind}`", row) for kind, row in kinds().items()),
    ]
    return _page(
        "Events",
        "What the driver and the kernel log report, with the maker's advice. The codes' meaning and "
        "advice are facts from NVIDIA's public XID catalogue "
        "(<https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html>, for older GPUs its "
        "earlier listing) in our words; whom an event concerns is ours: a tenant's own program, or "
        "else the operator. Two sources that tell of one XID on one GPU within 10 s count once. A "
        "storm is told by its first, then once a minute by its number.",
        rows,
    )


def _advice_row(what: str, row: Advice) -> str:
    first, then = (f"`{word}`" if word else "" for word in (row.action, row.then))
    return f"| {what} | {row.name} | {first} | {then} | {row.concerns} | {row.severity} |"


def _page(title: str, text: str, rows: list[str]) -> str:
    note = "<!-- Made by deploy/make_docs.py from the code; do not edit. -->"
    return "\n".join([f"# {title}", "", note, "", text, "", *rows, ""])


def main() -> None:
    """Writes them."""
    DOCS.mkdir(exist_ok=True)
    for name, text in pages().items():
        (DOCS / name).write_text(text, encoding="utf-8")
        print(f"docs/{name}")


if __name__ == "__main__":
    main()
