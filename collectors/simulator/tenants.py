"""Who uses a simulated site: invented start-ups, university groups and R&D centres.

None of the names is meant to be an organisation that exists.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

_STEMS = (
    "amber", "basalt", "bluefin", "cinder", "cobalt", "copperleaf", "dragonfruit", "driftwood",
    "emberline", "fernhill", "flintlock", "gingko", "granite", "halcyon", "indigo", "ironbark",
    "jadewing", "kestrel", "lanternfish", "magpie", "moonquay", "nimbus", "osprey", "pearlgate",
    "quartz", "redtide", "saltmarsh", "tidemark", "umber", "whitecap",
)  # fmt: skip
_FIELDS = (
    "robotics", "genomics", "speech", "vision", "materials", "logistics",
    "finance", "climate", "imaging", "legal", "edtech",
)  # fmt: skip
_CENTRES = (
    "atlas", "borealis", "cortex", "delta", "equinox", "fathom", "helix", "ionosphere", "keystone",
    "lodestar", "meridian", "northgate",
)  # fmt: skip
_PROGRAMMES = ("llm", "bio", "sim")
_PROJECTS = ("main", "research", "pilot")


@dataclass(frozen=True, slots=True)
class Tenant:
    """A user of the site; `large` ones are approved for trainings of many nodes."""

    name: str
    projects: tuple[str, ...]
    large: bool


def make_tenants() -> tuple[list[Tenant], list[Tenant]]:
    """36 large tenants and 330 small ones, the same for every site and seed."""
    large = [
        Tenant(f"{centre}-{programme}", _PROJECTS, large=True)
        for programme, centre in product(_PROGRAMMES, _CENTRES)
    ]
    small = [
        Tenant(f"{stem}-{field}", _PROJECTS[: 1 + index % 2], large=False)
        for index, (field, stem) in enumerate(product(_FIELDS, _STEMS))
    ]
    return large, small
