"""The bus port's contract on both adapters: groups, commits, fencing, pause."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest
from bus_place import Place
from bus_reading import Member, read, send, until, values

from collectors.contract.bus import BusUnavailableError, FencedError, Message, Partition


def numbered(topic: str, count: int, start: int = 0) -> list[Message]:
    """Records that say their number, under 50 keys."""
    return [Message(topic, b"node%d" % (i % 50), b"%d" % i) for i in range(start, start + count)]


@pytest.mark.parametrize("size", [1, 2, 3])
async def test_each_record_goes_to_one_member(place: Place, size: int) -> None:
    topic = place.topic(partitions=6)
    async with place.bus(topic) as bus:
        await send(bus, numbered(topic.name, 300))
        members = [Member(bus, topic.name, place.name("group")) for _ in range(size)]
        # A member that joins has its share only once those before it have given theirs up.
        await asyncio.gather(*(member.start() for member in members))

        async def all_committed() -> bool:
            for member in members:
                if await member.turn(0.05):
                    await member.commit()
            return sum(len(set(member.got)) for member in members) >= 300

        await until(all_committed)
        shares = [member.consumer.assigned for member in members]
        assert sum(map(len, shares)) == 6
        assert {one for share in shares for one in share} == {
            Partition(topic.name, number) for number in range(6)
        }
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
        seen = sorted(int(value) for member in members for value in member.got)
        assert sorted(set(seen)) == list(range(300))
        for member in members:
            await member.consumer.stop()


async def test_a_newcomer_goes_on_where_on_revoked_committed(place: Place) -> None:
    topic = place.topic(partitions=4)
    async with place.bus(topic) as bus:
        await send(bus, numbered(topic.name, 200))
        first, second = (Member(bus, topic.name, place.name("group")) for _ in range(2))
        await first.start()
        while len(first.got) < 200:
            await first.turn()
        assert first.told == [("assigned", first.consumer.assigned)]
        generation = first.consumer.generation
        joining = asyncio.create_task(second.start())
        await until(lambda: _turned(first, joining.done))
        await joining
        everything = frozenset(Partition(topic.name, number) for number in range(4))
        await until(lambda: _turned(first, lambda: len(first.consumer.assigned) == 2))
        assert first.told[1] == ("revoked", everything)
        assert first.told[-1] == ("assigned", first.consumer.assigned)
        assert second.told[-1] == ("assigned", second.consumer.assigned)
        assert first.consumer.assigned | second.consumer.assigned == everything
        assert second.consumer.generation > generation
        await send(bus, numbered(topic.name, 100, start=200))
        while len(first.got) + len(second.got) < 300:
            await first.turn(0.05)
            await second.turn(0.05)
        assert sorted(int(value) for value in first.got + second.got) == list(range(300))
        await first.consumer.stop()
        await second.consumer.stop()


async def _turned(member: Member, true: Callable[[], bool]) -> bool:
    """Lets a member go on, then asks."""
    await member.turn(0.05)
    return true()


async def test_who_leaves_hands_over(place: Place) -> None:
    topic = place.topic(partitions=2)
    async with place.bus(topic) as bus:
        first, second = (Member(bus, topic.name, place.name("group")) for _ in range(2))
        await asyncio.gather(first.start(), second.start())
        await until(lambda: _turned(first, lambda: len(first.consumer.assigned) == 1))
        await second.consumer.stop()
        await until(lambda: _turned(first, lambda: len(first.consumer.assigned) == 2))
        assert second.consumer.assigned == frozenset()
        await first.consumer.stop()


async def test_a_commit_of_an_earlier_assignment_is_fenced(place: Place) -> None:
    topic = place.topic(partitions=2)
    async with place.bus(topic) as bus:
        await send(bus, numbered(topic.name, 100))
        group = place.name("group")
        first, second = (bus.consumer([topic.name], group) for _ in range(2))
        await first.start()
        stale = {chunk.partition: chunk.next_offset for chunk in await read(first, 100)}
        assert len(stale) == 2
        joining = asyncio.create_task(second.start())

        async def shared() -> bool:
            # What comes after the newcomer is thrown away; positions are the group's again.
            await first.fetch(0.05)
            return joining.done() and len(first.assigned) == 1

        await until(shared)
        for partition, offset in stale.items():
            with pytest.raises(FencedError):
                await second.commit({partition: offset + 1})
        (gone,) = set(stale) - first.assigned
        with pytest.raises(FencedError):
            await first.commit({gone: stale[gone]})
        assert await second.committed(gone) is None
        await first.stop()
        with pytest.raises(FencedError):
            await first.commit(stale)
        await second.stop()


async def test_a_new_member_goes_on_at_the_commit(place: Place) -> None:
    topic = place.topic()
    partition = Partition(topic.name, 0)
    async with place.bus(topic) as bus:
        await send(bus, numbered(topic.name, 10))
        first = bus.consumer([topic.name], place.name("group"))
        await first.start()
        await read(first, 10)
        assert await first.committed(partition) is None
        await first.commit({partition: 4})
        assert await first.committed(partition) == 4
        await first.stop()
        second = bus.consumer([topic.name], place.name("group"), latest=True)
        await second.start()
        assert values(await read(second, 6)) == [b"%d" % i for i in range(4, 10)]
        assert second.generation > first.generation
        await second.stop()


async def test_groups_do_not_touch_each_other(place: Place) -> None:
    topic = place.topic(partitions=2)
    async with place.bus(topic) as bus:
        await send(bus, numbered(topic.name, 40))
        for name in ("a", "b"):
            consumer = bus.consumer([topic.name], place.name(name))
            await consumer.start()
            chunks = await read(consumer, 40)
            await consumer.commit({chunk.partition: chunk.next_offset for chunk in chunks})
            await consumer.stop()


async def test_without_a_group_there_is_no_commit(place: Place) -> None:
    topic = place.topic()
    async with place.bus(topic) as bus:
        consumer = bus.consumer([topic.name], None)
        await consumer.start()
        with pytest.raises(RuntimeError, match="group"):
            await consumer.commit({Partition(topic.name, 0): 0})
        assert consumer.generation == 0
        await consumer.stop()


async def test_a_paused_member_gets_nothing_and_stays(place: Place) -> None:
    topic = place.topic(partitions=2)
    async with place.bus(topic) as bus:
        member = Member(bus, topic.name, place.name("group"))
        await member.start()
        generation = member.consumer.generation
        member.consumer.pause()
        await send(bus, numbered(topic.name, 10))
        # Longer than the session timeout of a second.
        end_s = time.monotonic() + 1.5
        while time.monotonic() < end_s:
            assert await member.consumer.fetch(0.3) == []
        waiting = asyncio.create_task(member.consumer.fetch(20.0))
        await asyncio.sleep(0)
        member.consumer.resume()
        got = len(values(await waiting))
        while got < 10:
            got += len(values(await member.consumer.fetch(1.0)))
        assert member.consumer.generation == generation
        assert [word for word, _ in member.told] == ["assigned"]
        await member.consumer.stop()


async def test_a_failing_listener_is_the_members_own_affair(place: Place) -> None:
    topic = place.topic(partitions=2)

    async def fail(_: frozenset[Partition]) -> None:
        raise ZeroDivisionError

    async with place.bus(topic) as bus:
        failing = bus.consumer([topic.name], place.name("group"))
        await failing.start(on_revoked=fail)
        other = bus.consumer([topic.name], place.name("group"))
        joining = asyncio.create_task(other.start())

        async def failed() -> bool:
            try:
                await failing.fetch(0.05)
            except ZeroDivisionError:
                return True
            return False

        await until(failed)
        await joining
        await failing.stop()
        await other.stop()


async def test_a_newcomer_with_a_topic_that_is_not_there_disturbs_nobody(place: Place) -> None:
    topic = place.topic()
    async with place.bus(topic) as bus:
        member = Member(bus, topic.name, place.name("group"))
        await member.start()
        newcomer = bus.consumer([topic.name, place.name("nowhere")], place.name("group"))
        with pytest.raises(BusUnavailableError, match="nowhere"):
            await newcomer.start()
        await send(bus, numbered(topic.name, 5))
        assert values(await read(member.consumer, 5)) == [b"%d" % i for i in range(5)]
        assert [word for word, _ in member.told] == ["assigned"]
        await member.consumer.stop()


async def test_members_may_read_different_topics(place: Place) -> None:
    one, two = place.topic("one", partitions=2), place.topic("two", partitions=2)
    async with place.bus(one, two) as bus:
        both = Member(bus, one.name, place.name("group"))
        both.consumer = bus.consumer([one.name, two.name], place.name("group"))
        await both.start()
        assert len(both.consumer.assigned) == 4
        await send(bus, [*numbered(one.name, 10), *numbered(two.name, 10)])
        chunks = await read(both.consumer, 20)
        assert {chunk.partition.topic for chunk in chunks} == {one.name, two.name}
        await bus.delete_topics([two.name])
        await both.consumer.stop()
