"""A small site, and strategies of samples and allocations on it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from books_reference import HOUR, Sample
from hypothesis import strategies as st

from collectors.contract.identity import parse_slot, slot_text
from collectors.contract.inventory import InstalledNode, Inventory
from collectors.contract.topics import Allocation, Subject
from pipeline.books.claims import Claim, claims_of

SECOND = 1_000_000
S1, S2 = parse_slot("0000:1b:00.0"), parse_slot("0000:3d:00.0")
TEXT = {slot: slot_text(slot) for slot in (S1, S2)}
H = 100
BASE = H * HOUR


def inventory(*nodes: InstalledNode) -> Inventory:
    given = nodes or (node("n1"),)
    return Inventory("t", "T", "UTC", "fp16", "dense", "boost", given)


def node(name: str, from_us: int = 0, to_us: int | None = None) -> InstalledNode:
    return InstalledNode(name, "h", "r", "H800", (S1, S2), 1.0, from_us, to_us)


def claims_by_node(allocations: Sequence[Allocation]) -> dict[str, list[Claim]]:
    last = {(one.source, one.id): one for one in allocations}
    result: dict[str, list[Claim]] = defaultdict(list)
    for one in last.values():
        for claim in claims_of(one):
            result[claim.node].append(claim)
    return result


times = st.integers(-2 * HOUR, 3 * HOUR) | st.integers(-90, 90).map(lambda s: s * SECOND)
small = st.integers(0, 2**22) | st.integers(0, 2**33)
counters = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(("energy_mj", "gflop", "throttle_power_cap_us", "pcie_replay"), small),
)
state = st.none() | st.tuples(small, small, small)


@st.composite
def sample_lists(draw: st.DrawFn) -> list[Sample]:
    samples: list[Sample] = []
    for _ in range(draw(st.integers(0, 12))):
        values: dict[str, int] = {**draw(counters)}
        if (of := draw(state)) is not None:
            values.update(zip(("observed_us", "down_us", "active_us"), of, strict=True))
        epoch = draw(st.integers(1, 2))
        samples.append(
            Sample(
                "n1",
                draw(st.sampled_from([S1, S2])),
                BASE + draw(times),
                draw(st.integers(1, 2)),
                epoch * 10 + draw(st.integers(0, 1)),
                epoch,
                values,
                draw(st.integers(1, 2)),
            )
        )
    for one in list(samples):
        if draw(st.booleans()):  # the same points later: a plausible rising run
            shift = draw(st.integers(1, 90 * SECOND))
            grown = {
                name: value + draw(st.integers(0, shift)) for name, value in one.values.items()
            }
            samples.append(
                Sample(
                    one.node,
                    one.slot,
                    one.time_us + shift,
                    one.run,
                    one.label_epoch,
                    one.energy_epoch,
                    grown,
                )
            )
    return samples


held = st.builds(
    Allocation,
    source=st.just("s"),
    id=st.sampled_from(["1", "2", "3"]),
    tenant=st.sampled_from(["ant", "bee", "ant", ""]),
    project=st.just("p"),
    job=st.just(""),
    subjects=st.sampled_from([(Subject("n1"),), (Subject("n1", (TEXT[S1],)),), (Subject("n2"),)]),
    from_us=times.map(lambda t: BASE + t),
    to_us=st.none() | times.map(lambda t: BASE + t),
    kind=st.sampled_from(["job", "maintenance"]),
    deleted=st.sampled_from([False, False, True]),
    precedence=st.sampled_from([0, 10, 20]),
)
sharing = st.builds(
    Allocation,
    source=st.sampled_from(["s", "t"]),
    id=st.sampled_from(["1", "2", "3"]),
    tenant=st.sampled_from(["ant", "bee", "ant", ""]),
    project=st.just("p"),
    job=st.sampled_from(["", "j"]),
    subjects=st.sampled_from(
        [
            (Subject("n1"),),
            (Subject("n1", (TEXT[S1],)), Subject("n1")),
            (Subject("n1", (TEXT[S2],)),),
        ]
    ),
    from_us=times.map(lambda t: BASE + t),
    to_us=st.none() | times.map(lambda t: BASE + t),
    kind=st.sampled_from(["job", "job", "job", "maintenance"]),
    precedence=st.sampled_from([0, 0, 0, 20]),
    shared=st.sampled_from([True, True, True, False]),
    weight=st.integers(0, 7) | st.just(2**62),
    parts=st.sampled_from([0, 0, 7, 10]),
)
"""Claims of which most share their slots."""
sites = st.sampled_from(
    [
        inventory(),
        inventory(node("n1", BASE + 5), node("n2")),
        inventory(node("n1", 0, BASE + 7 * SECOND), node("n1", BASE + HOUR, None)),
    ]
)
