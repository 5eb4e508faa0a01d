"""Who is who: tenants, and by which names schedulers and nodes know them, each with its dates.

Read from the tenants file (see tenants_file).  Of a claim's names an account
beats a namespace, and that a user; of two rules for an account the one that
names the claim's cluster.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

from collectors.contract.topics import Allocation

_NEVER = 2**63 - 1
NAMED_BY = ("account", "namespace", "user")
"""What of a claim is looked up, the strongest first."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """Somebody who is given compute; the id is what claims and bills say."""

    id: str
    title: str
    kind: str = ""
    """`start-up`, `university`, … as the site has it."""
    contact: str = ""
    projects: tuple[str, ...] = ()
    line: int = 0
    """Where the file says so."""


class NameRule(NamedTuple):
    """A name that stands for a (tenant, project) in [from_us, to_us)."""

    by: str
    """One of NAMED_BY."""
    name: str
    cluster: str
    """An account's alone: the Slurm cluster that it is of; empty is any."""
    tenant: str
    project: str
    from_us: int
    to_us: int | None
    line: int


class Stretch(NamedTuple):
    """A part of a claim's time in which one rule, or none, says whose it is."""

    from_us: int
    to_us: int
    """2^63 − 1 is without end."""
    rule: NameRule | None


@dataclass(frozen=True)
class Tenants:
    """The tenants file: tenants, names, and claims that people write down.

    `claims` are reservations and maintenance windows as records of `telemetry.alloc`.
    """

    tenants: tuple[Tenant, ...] = ()
    names: tuple[NameRule, ...] = ()
    claims: tuple[Allocation, ...] = ()
    text: str = ""
    """As people wrote it; empty where there is no file."""
    path: str = ""

    @cached_property
    def by_id(self) -> dict[str, Tenant]:
        """Tenants by id."""
        return {one.id: one for one in self.tenants}

    @cached_property
    def _rules(self) -> dict[tuple[str, str], list[NameRule]]:
        rules: dict[tuple[str, str], list[NameRule]] = defaultdict(list)
        for rule in self.names:
            rules[rule.by, rule.name].append(rule)
        return dict(rules)

    def rules_for(self, claim: Allocation) -> list[NameRule]:
        """The rules that may say whose a claim is, at any time, the strongest first."""
        if not self.names or not may_be_named(claim):
            return []
        cluster = cluster_of(claim)
        found: list[NameRule] = []
        for by in NAMED_BY:
            mine = self._rules.get((by, getattr(claim, by)), ()) if getattr(claim, by) else ()
            found += [rule for rule in mine if rule.cluster and rule.cluster == cluster]
            found += [rule for rule in mine if not rule.cluster]
        return found

    def stretches(self, claim: Allocation) -> list[Stretch]:
        """A claim's time, cut where its tenant changes: in order, without gaps; neighbouring
        stretches differ in their rule.  Empty for a claim that ends when it begins."""
        low, high = claim.from_us, _NEVER if claim.to_us is None else claim.to_us
        if high <= low:
            return []
        rules = self.rules_for(claim)
        bounds = {low, high}
        for rule in rules:
            bounds.update(
                at for at in (rule.from_us, rule.to_us) if at is not None and low < at < high
            )
        result: list[Stretch] = []
        for start, end in pairwise(sorted(bounds)):
            rule = _at(rules, start)
            same = result and result[-1].rule == rule
            result.append(Stretch(result.pop().from_us if same else start, end, rule))
        return result


NO_TENANTS = Tenants()
"""Of an installation without a tenants file."""


def _at(rules: Iterable[NameRule], time_us: int) -> NameRule | None:
    for rule in rules:
        if rule.from_us <= time_us and (rule.to_us is None or time_us < rule.to_us):
            return rule
    return None


def may_be_named(claim: Allocation) -> bool:
    """Whether a claim's tenant is the file's to say: it has none, or only repeats the account,
    namespace or user beside it, as an agent does that knows no better."""
    if claim.kind == "maintenance":
        return False
    return claim.tenant in ("", claim.account, claim.namespace, claim.user)


def cluster_of(claim: Allocation) -> str:
    """The Slurm cluster that a claim is of: its source is `slurm:CLUSTER`; else empty."""
    kind, _, cluster = claim.source.partition(":")
    return cluster if kind == "slurm" else ""


def overlapping(rules: Sequence[NameRule]) -> tuple[NameRule, NameRule] | None:
    """Two rules that say something of one name at one time, if there are any."""
    ordered = sorted(rules, key=lambda one: (one.by, one.name, one.cluster, one.from_us))
    for before, after in pairwise(ordered):
        same = before[:3] == after[:3]
        if same and (before.to_us is None or before.to_us > after.from_us):
            return before, after
    return None
