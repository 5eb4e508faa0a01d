"""Alerts, incidents and what people say of them: records of `petawatch.alerts` and `.control`.

All are functions of the log (design, law 7): times are event times, ids and
fingerprints follow from what happened, so that the same log gives the same
records and a record that is published twice says the same twice.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

SEVERITIES = ("info", "warning", "critical")
"""In rising order; `info` never calls anybody."""
SCOPES = ("gpu", "node", "rack", "hall", "tenant", "site", "pipeline")
"""What an alert may be about, the narrowest place first."""
ALERT_STATES = ("pending", "firing", "resolved")
INCIDENT_STATES = ("open", "resolved")
CONCERNS = ("operator", "tenant")
FAMILIES = (
    "thermal",
    "power",
    "memory",
    "link",
    "lost",
    "program",
    "waste",
    "clock",
    "pipeline",
)
"""What goes wrong together: alerts of one family at one place and time are one incident.
`lost` is a GPU, node or rack that is silent, missing or off the bus; `program` a tenant's own
fault; `link` PCIe and NVLink."""


class Subject(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an alert is about.  `name` is the GPU's short name, the node, `hall/rack`, the hall, the
    tenant, the site, or the pipeline's part; the rest is where that is, empty where it is not one
    place."""

    scope: str
    name: str
    hall: str = ""
    rack: str = ""
    node: str = ""
    slot: str = ""
    tenant: str = ""


class Alert(msgspec.Struct, frozen=True, omit_defaults=True):
    """One transition of one alert, keyed by `fingerprint`; the last one is its state.

    (`fingerprint`, `state`, `severity`, `at_us`) names the transition: one that is met again
    is the same.
    """

    fingerprint: str
    """Rule and subject, hashed; the same for ever."""
    rule: str
    severity: str
    state: str
    subject: Subject
    since_us: int
    """When the condition began to hold."""
    at_us: int
    """When this state began."""
    value: float | None = None
    level: float | None = None
    """What `value` is compared with."""
    metric: str = ""
    unit: str = ""
    title: str = ""
    """What it is, in a few words for people; empty in older records."""
    text: str = ""
    """One sentence for people, with figures."""
    family: str = ""
    """One of FAMILIES."""
    cause: str = ""
    """What is thought to be wrong, as one of the words of the rule's runbook."""
    confidence: float | None = None
    evidence: dict[str, float] = {}
    """Named figures that speak for it, with units in the names."""
    concerns: str = "operator"
    tenants: tuple[str, ...] = ()
    jobs: tuple[str, ...] = ()
    gpus: int = 0
    """GPUs that it touches."""
    pflops: float | None = None
    """Nameplate PFLOP/s of those."""
    runbook: str = ""
    """Page of `docs/runbooks`, without `.md`."""
    action: str = ""
    incident: str = ""
    """Id of the incident that it is a member of."""
    origin: str = ""

    @property
    def key(self) -> bytes:
        """The record's key on the bus."""
        return b"alert/" + self.fingerprint.encode()


class Member(msgspec.Struct, frozen=True, omit_defaults=True):
    """An alert of an incident, as much of it as a message needs."""

    fingerprint: str
    rule: str
    severity: str
    subject: Subject
    since_us: int
    resolved_us: int | None = None
    title: str = ""


class Incident(msgspec.Struct, frozen=True, omit_defaults=True):
    """Correlated alerts as one; keyed by `id`, each revision replaces the one before.

    `notice` counts the changes that people are told of (opened, worse, resolved):
    (`id`, `notice`) is the idempotency key of a notification.
    """

    id: str
    state: str
    severity: str
    title: str
    family: str
    cause: str
    subject: Subject
    opened_us: int
    changed_us: int
    revision: int
    notice: int
    members: tuple[Member, ...] = ()
    """At most 100, the gravest first; `member_count` says how many there are."""
    member_count: int = 0
    resolved_us: int | None = None
    confidence: float | None = None
    concerns: str = "operator"
    tenants: tuple[str, ...] = ()
    jobs: tuple[str, ...] = ()
    gpus: int = 0
    pflops: float | None = None
    """Nameplate PFLOP/s of the GPUs that it touches."""
    runbook: str = ""
    action: str = ""
    text: str = ""
    origin: str = ""

    @property
    def key(self) -> bytes:
        """The record's key on the bus."""
        return b"incident/" + self.id.encode()


OUTCOMES = ("sending", "sent", "silenced", "maintenance", "refused", "too_old")
"""`sending` is written before the first attempt, so that after a crash a notice that may go out
twice is known for one; the others are final."""


class Delivery(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of a notice at one target: a record of `petawatch.alerts`."""

    target: str
    incident: str
    notice: int
    outcome: str
    """One of OUTCOMES."""
    at_us: int
    attempts: int = 1
    detail: str = ""
    """The target's own words where it refused."""

    @property
    def key(self) -> bytes:
        """The record's key on the bus."""
        return f"delivery/{self.target}/{self.incident}".encode()


AlertRecord = Alert | Incident | Delivery


def parse_alert_record(key: bytes, value: bytes) -> AlertRecord:
    """A record of `petawatch.alerts`.  Raises ValueError for what is none."""
    kind = key.partition(b"/")[0]
    known: dict[bytes, type[AlertRecord]] = {
        b"alert": Alert,
        b"incident": Incident,
        b"delivery": Delivery,
    }
    if kind not in known:
        raise ValueError(f"no such record: {kind[:32]!r}")
    return msgspec.json.decode(value, type=known[kind])


CONTROL_KINDS = ("silence", "acknowledge", "comment", "notify_test")


class Control(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a person wants: a record of `petawatch.control`, keyed by (kind, id).

    A `silence` holds for alerts that match all of `match` (names of fields of
    Subject, `rule`, `severity`, `tenant` → value or shell pattern) until
    `until_us`; `acknowledge` and `comment` name an `incident`.
    """

    kind: str
    id: str
    actor: str
    at_us: int
    match: Annotated[dict[str, str], msgspec.Meta(max_length=16)] = {}
    incident: str = ""
    from_us: int = 0
    until_us: int | None = None
    text: str = ""
    deleted: bool = False

    @property
    def key(self) -> bytes:
        """The record's key on the bus."""
        return f"{self.kind}\x00{self.id}".encode()
