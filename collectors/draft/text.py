"""The draft itself: nodes grouped by where they seem to stand and what is in them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

from collectors.contract.facts import GpuFacts
from collectors.contract.inventory_file import quoted
from collectors.contract.models import find_model
from collectors.contract.site_fit import slots_line, whole_gpus
from collectors.contract.site_toml import is_name
from collectors.draft.heard import Heard
from collectors.draft.names import fold

UNKNOWN = "unknown"
_SILENT_US = 86_400_000_000
"""What has said nothing for so long may be gone for good."""
_HEAD = """\
# Drafted on {when} from what agents had said of their nodes: {nodes}. One whose agent has never
# run is not here. Halls and racks are at best guessed from names: correct them.

[site]
name = {name}
time_zone = {zone}
"""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the facts do not say."""

    name: str
    zone: ZoneInfo
    now_us: int
    hall_of: re.Pattern[str] | None = None
    """The hall is its first group, found in a node's name (the whole match without a group)."""
    rack_of: re.Pattern[str] | None = None
    since: date | None = None
    """From when the nodes are installed; else the day on which each was heard of first."""


@dataclass(frozen=True, order=True, slots=True)
class _Entry:
    """What nodes of one [[nodes]] table have in common."""

    hall: str
    rack: str
    model: str
    slots: tuple[int, ...]
    since: date
    note: str
    why_not: str
    """Why the reader would not take it; "" where it would."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A `site.toml` as text, how many nodes stand in it, and how many could not."""

    text: str
    nodes: int
    left_out: int


def draft(heard: Iterable[Heard], wishes: Wishes) -> Draft:
    """Writes what `load_inventory` reads, where one node at least has GPUs of a known model."""
    groups: dict[_Entry, list[str]] = {}
    for node in heard:
        groups.setdefault(_entry(node, wishes), []).append(node.node)
    taken = sum(len(names) for entry, names in groups.items() if not entry.why_not)
    left_out = sum(map(len, groups.values())) - taken
    head = _HEAD.format(
        when=f"{_day(wishes.now_us, wishes)}", nodes=taken + left_out,
        name=quoted(wishes.name), zone=quoted(wishes.zone.key),
    )  # fmt: skip
    tables = [_table(entry, groups[entry]) for entry in sorted(groups)]
    return Draft("\n".join([head, *tables]), taken, left_out)


def _entry(node: Heard, wishes: Wishes) -> _Entry:
    slots = _slots(node.gpus)
    models = _models(node.gpus)
    model = models.most_common(1)[0][0] if models else ""
    row = find_model(model)
    others = [f"{many} × {name}" for name, many in models.items() if name != model]
    return _Entry(
        hall=_place(wishes.hall_of, node.node),
        rack=_place(wishes.rack_of, node.node),
        model=model if row is None else row.key,
        slots=slots,
        since=wishes.since or _day(min(node.first_us, wishes.now_us), wishes),
        note=f"it has {', '.join(others)} too, and an entry has one model" if others else "",
        why_not=_why_not(node, model, slots, wishes),
    )


def _why_not(node: Heard, model: str, slots: Sequence[int], wishes: Wishes) -> str:
    """Why the reader would refuse a node's entry, or nobody may want it."""
    row = find_model(model)
    if not is_name(node.node):
        return "names of nodes have letters, digits and . _ - alone, 64 at most: set the agent's"
    if not slots:
        return "its agent speaks of no GPU"
    if row is None:
        return "the model is not known: write the key nearest to it, and pflops_per_gpu"
    if row.fp16_tflops is None:
        return "the model's peak is not known: write pflops_per_gpu"
    if wishes.now_us - node.last_us > _SILENT_US:
        return f"nothing was heard since {_day(node.last_us, wishes)}"
    return ""


def _slots(gpus: Sequence[GpuFacts]) -> tuple[int, ...]:
    try:
        return whole_gpus(gpus)
    except ValueError:
        return ()


def _models(gpus: Sequence[GpuFacts]) -> Counter[str]:
    """Whole GPUs by model; of a GPU without a name nothing is known."""
    return Counter(gpu.model.strip() for gpu in gpus if not gpu.parent and gpu.model.strip())


def _place(pattern: re.Pattern[str] | None, name: str) -> str:
    match = pattern.search(name) if pattern else None
    found = match[1] if match and match.re.groups else match[0] if match else ""
    return found if found and found.strip() else UNKNOWN


def _day(us: int, wishes: Wishes) -> date:
    return datetime.fromtimestamp(max(0, us) / 1e6, UTC).astimezone(wishes.zone).date()


def _table(entry: _Entry, nodes: Sequence[str]) -> str:
    names = nodes if entry.why_not else fold(nodes)
    values: Mapping[str, str] = {
        "hall": quoted(entry.hall),
        "rack": quoted(entry.rack),
        "names": f"[{', '.join(quoted(name) for name in sorted(names))}]",
        "model": quoted(entry.model),
    }
    lines = ["[[nodes]]", *(f"{key} = {value}" for key, value in values.items())]
    lines += [slots_line(entry.slots), f"from = {entry.since}"]
    if entry.why_not:
        lines = [f"# Left out: {entry.why_not}.", *(f"# {line}" for line in lines)]
    if entry.note:
        lines.insert(0, f"# Look here: {_plain(entry.note)}.")
    return "\n".join([*lines, ""])


def _plain(text: str) -> str:
    """On one line, whatever a driver or an exporter called its GPUs."""
    return quoted(text)[1:-1]
