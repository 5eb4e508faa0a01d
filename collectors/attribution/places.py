"""The slots of a node, found by the names that schedulers give to GPUs."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from collectors.contract.identity import parse_slot, unpack_slot

_OLD_MIG = re.compile(r"MIG-(?P<gpu>GPU-[0-9a-fA-F-]+)/(?P<gi>\d{1,3})/(?P<ci>\d{1,3})")
_GKE = re.compile(r"nvidia(?P<gpu>\d{1,4})(?:/gi(?P<gi>\d{1,3}))?(?:/vgpu\d+)?")
_NUMBER = re.compile(r"(?P<gpu>\d{1,4})(?:\.(?P<gi>\d{1,3}))?")
_PROFILE = re.compile(r"(?:(?P<c>[1-7])c\.)?(?P<g>[1-7])g\.")
_PART = re.compile(r"(?P<gi>\d{1,3})(?:/(?P<ci>\d{1,3}))?")


class Place(NamedTuple):
    """One slot that somebody may hold."""

    slot: int
    uuid: str
    number: int | None
    """As in `/dev/nvidiaN`, which schedulers use; None for an instance."""
    parent: int | None
    """The packed slot of the GPU that an instance is a part of."""
    profile: str = ""
    """`1g.10gb`, or `1c.2g.20gb` for a part of such an instance."""

    @property
    def slices(self) -> int:
        """How many of the GPU's seven compute slices it has; 1 where its profile does not say."""
        match = _PROFILE.match(self.profile)
        return 1 if match is None else int(match["c"] or match["g"])


class Places:
    """The places of one moment by all their names."""

    def __init__(self, places: Iterable[Place]) -> None:
        self.slots: set[int] = set()
        self._by_uuid: dict[str, list[int]] = defaultdict(list)
        self._by_number: dict[int, int] = {}
        self._parts: dict[int, list[int]] = defaultdict(list)
        for place in places:
            self.slots.add(place.slot)
            if place.uuid:
                self._by_uuid[place.uuid.lower()].append(place.slot)
            if place.parent is not None:
                self._parts[place.parent].append(place.slot)
            elif place.number is not None:
                self._by_number[place.number] = place.slot

    def find(self, name: str) -> Sequence[int]:
        """The slots that a device's name means; none where it is unknown or not unique.

        Names: `GPU-…` and `MIG-…` UUIDs, `MIG-GPU-…/gi/ci`, each also with
        time slicing's `::n` behind it; `nvidia0`, `nvidia0/gi1`,
        `nvidia0/gi1/vgpu2`, `nvidia0/vgpu1`; `0`, `0.1` (an instance's number
        behind the point); PCI addresses.  A whole GPU is it and all its instances.
        """
        plain = name.strip().partition("::")[0]
        slots = self._by_uuid.get(plain.lower(), ())
        if slots:
            # Two GPUs with one UUID exist: which of them is meant is not known.
            return self._whole(slots[0]) if len(slots) == 1 else ()
        if match := _OLD_MIG.fullmatch(plain):
            gpu = self._by_uuid.get(match["gpu"].lower(), ())
            parts = self._instances(gpu[0], int(match["gi"])) if len(gpu) == 1 else []
            return [slot for slot in parts if unpack_slot(slot).ci == int(match["ci"])]
        if match := _GKE.fullmatch(plain) or _NUMBER.fullmatch(plain):
            slot = self._by_number.get(int(match["gpu"]))
            if slot is None:
                return ()
            return (
                self._whole(slot)
                if match["gi"] is None
                else self._instances(slot, int(match["gi"]))
            )
        return self._by_address(plain)

    def part(self, name: str, instance: str) -> Sequence[int]:
        """The slots of a GPU's instance `gi`, or `gi/ci`; none where it has none such."""
        match = _PART.fullmatch(instance)
        whole = self.find(name)
        if match is None or not whole:
            return ()
        parts = self._instances(whole[0], int(match["gi"]))
        return [one for one in parts if match["ci"] in {None, str(unpack_slot(one).ci)}]

    def _by_address(self, text: str) -> Sequence[int]:
        try:
            slot = parse_slot(text)
        except ValueError:
            return ()
        return self._whole(slot) if slot in self.slots else ()

    def _whole(self, slot: int) -> list[int]:
        return [slot, *self._parts.get(slot, ())]

    def _instances(self, slot: int, gi: int) -> list[int]:
        return [part for part in self._parts.get(slot, ()) if unpack_slot(part).gi == gi]
