"""What a line of an exporter's page is about: which GPU or instance, which metric, whose work."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from collectors.contract.identity import Slot, pack_slot, parse_slot, unpack_slot
from collectors.contract.record import SlotLabels
from collectors.replay.samples import synthetic_slot
from collectors.scrape.names import XIDS_TOTAL, Name, name_of

_SERIES = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\(.)")
_BARE_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_OTHER_ENTITIES = ("nvswitch", "nvlink", "cpu", "cpucore")
"""Labels of lines that are about a link, a switch or a CPU, though they may name a GPU as well."""
_MADE_UP_DOMAIN = 0xFFFF0000
_POD, _NAMESPACE = ("pod", "pod_name", "exported_pod"), (
    "namespace", "pod_namespace", "exported_namespace",
)  # fmt: skip
INFO = "nvidia_smi_gpu_info"


class Holder(NamedTuple):
    """Who the exporter says computes there."""

    kind: str
    """`kubernetes` or `slurm`."""
    name: str
    namespace: str = ""

    @property
    def text(self) -> str:
        """As the occupant of a label."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


@dataclass(frozen=True, slots=True)
class Place:
    """A GPU or instance of a page.  Equal for all its lines, whatever else they carry."""

    labels: SlotLabels
    parent: int | None = None
    number: int | None = None
    profile: str = ""


class Series(NamedTuple):
    """What to do with a line's value."""

    slot: int
    metric: str
    scale: float
    place: Place
    holder: Holder | None = None
    xid: int | None = None
    """Of the exporter's own counters of XIDs."""


def parse_series(text: str) -> tuple[str, dict[str, str]]:
    """Name and labels of `name{a="b"}`.  Raises ValueError."""
    match = _SERIES.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"not a series: {text[:80]!r}")
    labels = {
        label[1]: _ESCAPE.sub(lambda m: "\n" if m[1] == "n" else m[1], label[2])
        for label in _LABEL.finditer(match[2] or "")
    }
    return match[1], labels


def made_up_slot(uuid: str) -> int:
    """The slot of a GPU of which only the UUID is known: always the same, in a PCI domain that
    no machine has (`ffff….`), so that it cannot be taken for an address."""
    digest = hashlib.blake2b(uuid.lower().encode(), digest_size=4).digest()
    return pack_slot(
        Slot(_MADE_UP_DOMAIN | digest[0] << 8 | digest[1], digest[2], digest[3] & 31, 0)
    )


def uuid_of(labels: Mapping[str, str]) -> str:
    """`GPU-…`, which nvidia_gpu_exporter leaves away; "" where there is none."""
    uuid = labels.get("UUID") or labels.get("uuid") or ""
    return f"GPU-{uuid}" if _BARE_UUID.fullmatch(uuid) else uuid


class Places:
    """The GPUs and instances of one exporter, as its lines' labels tell them apart."""

    def __init__(self) -> None:
        self._info: dict[str, Mapping[str, str]] = {}
        self._known: dict[Place, Place] = {}

    def inform(self, labels: Mapping[str, str]) -> None:
        """Takes an info series, whose labels belong to all lines of its UUID."""
        self._info[uuid_of(labels)] = labels

    def place(self, labels: Mapping[str, str]) -> Place | None:
        """Where a line belongs, one object for all lines of a place; None where its labels name
        no GPU."""
        found = self._place(labels)
        return None if found is None else self._known.setdefault(found, found)

    def _place(self, labels: Mapping[str, str]) -> Place | None:
        if any(labels.get(name) for name in _OTHER_ENTITIES):
            return None
        uuid = uuid_of(labels)
        known = {**self._info.get(uuid, {}), **labels}
        number = _number(known)
        slot = _slot(known, uuid, number)
        if slot is None:
            return None
        model = known.get("modelName") or known.get("name") or ""
        serial = known.get("serial", "")
        whole = SlotLabels(slot, uuid, model, serial if serial.strip("0") else "")
        instance = labels.get("GPU_I_ID", "")
        if not instance.isdecimal():
            return Place(whole, number=number)
        # An exporter knows GPU instances, not the compute instances in them.  The GPU's own
        # name would give a slice the whole GPU's peak.
        own = pack_slot(unpack_slot(slot)._replace(gi=int(instance), ci=0))
        return Place(
            SlotLabels(own, "", f"{model} MIG", whole.serial), slot, number,
            labels.get("GPU_I_PROFILE", ""),
        )  # fmt: skip

    def whole(self, labels: Mapping[str, str]) -> Place | None:
        """As `place`, of the GPU that an instance is a part of."""
        return self.place({name: text for name, text in labels.items() if name != "GPU_I_ID"})


def series_of(text: str, places: Places) -> Series | None:
    """What a line is about; None where it is of no use here.  Raises ValueError."""
    series, labels = parse_series(text)
    name = Name("xids_total") if series == XIDS_TOTAL else name_of(series)
    if name is None:
        return None
    place = places.place(labels) if name.instance else places.whole(labels)
    if place is None:
        return None
    # What a whole GPU's value says on an instance's line is not about the instance's holder.
    own = name.instance or "GPU_I_ID" not in labels or not labels["GPU_I_ID"]
    code = labels.get("xid", "")
    if series == XIDS_TOTAL and not code.isdecimal():
        return None
    return Series(
        place.labels.slot, name.metric, name.scale, place,
        holder_of(labels) if own else None, int(code) if code.isdecimal() else None,
    )  # fmt: skip


def holder_of(labels: Mapping[str, str]) -> Holder | None:
    """A pod before a job: what Kubernetes gives out, no batch system has."""
    pod = next((labels[name] for name in _POD if labels.get(name)), "")
    if pod:
        space = next((labels[name] for name in _NAMESPACE if labels.get(name)), "")
        return Holder("kubernetes", pod, space)
    job = labels.get("hpc_job", "")
    return Holder("slurm", job) if job else None


def _number(labels: Mapping[str, str]) -> int | None:
    text = labels.get("gpu") or labels.get("index") or ""
    if not text.isdecimal():
        text = labels.get("device", "").removeprefix("nvidia")
    return int(text) if text.isdecimal() else None


def _slot(labels: Mapping[str, str], uuid: str, number: int | None) -> int | None:
    address = labels.get("pci_bus_id", "")
    try:
        if address:
            return parse_slot(address)
        if number is not None:
            return synthetic_slot(number)
    except ValueError:
        return None
    return made_up_slot(uuid) if uuid else None
