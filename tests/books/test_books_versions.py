"""Versions of allocations: what was once known can be asked for, and what a change touches."""

from __future__ import annotations

import msgspec
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, create_engine, func, select, text
from test_books_database import H, ledger_rows, put

from collectors.contract.topics import Allocation, Subject
from pipeline.books import progress, queries, schema, versions
from pipeline.books.database import Database
from pipeline.books.rows import HOUR_US


def allocation(
    from_us: int, to_us: int | None, known_us: int, tenant: str = "ant", *, deleted: bool = False
) -> Allocation:
    subjects = (Subject("n1"), Subject("n2", ("0000:1b:00.0",)))
    return Allocation(
        "s", "1", tenant, "p", "j", subjects, from_us, to_us, known_us=known_us, deleted=deleted
    )


async def test_every_version_stays_and_any_past_knowledge_can_be_asked(database: Database):
    said = [
        allocation(100, None, 100),
        allocation(100, 500, 510),
        allocation(100, 500, 900, "bee"),
        allocation(100, 500, 1_000, "bee", deleted=True),
    ]

    def work(connection: Connection) -> list[list[versions.Change]]:
        changes = [versions.record(connection, [(one, 0)]) for one in said]
        return [*changes, versions.record(connection, [(said[-1], 0)])]

    changes = await database.write(work)
    nodes = frozenset({"n1", "n2"})
    assert changes[1] == [versions.Change(nodes, 500, 2**63 - 1)]
    assert [(one.from_us, one.to_us) for one in changes[2]] == [(100, 500), (100, 500)]
    assert changes[4] == []
    holders: list[list[str]] = []
    for known_us in (99, 100, 509, 510, 900, 1_000, None):
        found = await database.read(
            lambda one, known_us=known_us: queries.allocations_at(one, 499, known_us=known_us)
        )
        holders.append([one.tenant for one in found])
    assert holders == [[], ["ant"], ["ant"], ["ant"], ["bee"], [], []]
    later = await database.read(lambda one: queries.allocations_at(one, 500, known_us=509))
    assert later == [said[0]]
    assert await database.read(lambda one: queries.allocations_at(one, 500, known_us=510)) == []


async def test_the_holder_and_how_far_the_word_goes_are_kept(database: Database):
    told = Allocation(
        "agent:n1:kubernetes", "1", "lab", "", "lab/pod", (Subject("n1"),), 100, None,
        known_us=100, weight=3, precedence=20, account="lab", user="eve", namespace="lab",
        shared=True, parts=5,
    )  # fmt: skip
    raised = msgspec.structs.replace(told, precedence=10, known_us=200)
    renamed = msgspec.structs.replace(raised, user="ann", known_us=300)
    alone = msgspec.structs.replace(renamed, shared=False, known_us=400)
    sliced = msgspec.structs.replace(alone, parts=7, known_us=500)

    def work(connection: Connection) -> list[list[versions.Change]]:
        return [
            versions.record(connection, [(one, 0)])
            for one in (told, told, raised, renamed, renamed, alone, sliced)
        ]

    changes = await database.write(work)
    assert [bool(one) for one in changes] == [True, False, True, True, False, True, True]
    for known_us, expected in (
        (150, told),
        (250, raised),
        (350, renamed),
        (450, alone),
        (None, sliced),
    ):
        found = await database.read(
            lambda one, known_us=known_us: queries.allocations_at(one, 200, known_us=known_us)
        )
        assert found == [expected]


async def test_books_made_before_keep_their_allocations(books_url: str):
    engine = create_engine(books_url)
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", "pipeline.books:migrations")
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(
            text(
                "INSERT INTO allocations (version, source, id, known_from_us, known_us, from_us,"
                " kind, tenant, project, job, weight, deleted)"
                " VALUES (1, 's', '1', 5, 5, 100, 'job', 'ant', 'p', 'j', 2, false)"
            )
        )
        connection.execute(text("INSERT INTO allocation_subjects VALUES (1, 'n1', '')"))
    engine.dispose()
    opened = Database(books_url)
    await opened.start()
    found = await opened.read(lambda one: queries.allocations_at(one, 200))
    kept = Allocation(
        "s", "1", "ant", "p", "j", (Subject("n1"),), 100, None, known_us=5, weight=2
    )  # fmt: skip
    assert found == [kept]
    again = await opened.write(lambda one: versions.record(one, [(kept, 0)]))
    assert again == []
    await opened.close()


async def test_a_job_that_ends_touches_only_the_hours_after_its_end(database: Database):
    def work(connection: Connection) -> tuple[int | None, list[progress.NodeHour]]:
        put(connection, ledger_rows(1, range(H, H + 4)), range(H, H + 4))
        versions.record(connection, [(allocation(H * HOUR_US, None, 1), 0)])
        ended = allocation(H * HOUR_US, (H + 2) * HOUR_US, 2)
        changes = versions.record(connection, [(ended, 0)])
        earliest = versions.mark_changes(connection, changes, progress.Cause.ALLOCATIONS)
        return earliest, progress.read_pending(connection)

    earliest, pending = await database.write(work)
    assert earliest == H + 2
    assert pending == [(hour, node) for hour in (H + 2, H + 3) for node in ("n1", "n2")]


async def test_claims_come_from_current_versions_only(database: Database):
    def work(connection: Connection) -> dict[str, int]:
        versions.record(connection, [(allocation(100, None, 1), 0), (allocation(100, 300, 2), 0)])
        claims = versions.claims_between(connection, 200, 400)
        return {node: len(ones) for node, ones in claims.items()}

    assert await database.write(work) == {"n1": 1, "n2": 1}
    assert await database.read(lambda one: versions.claims_between(one, 300, 400)) == {}
    count = await database.read(
        lambda one: one.execute(select(func.count(schema.allocations.c.version))).scalar()
    )
    assert count == 2
