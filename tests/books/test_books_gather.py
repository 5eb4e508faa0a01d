"""Which points stand beside an hour: of every counter its own nearest."""

from __future__ import annotations

from books_reference import Sample
from books_world import S1, World, at
from test_books_role import expected, finish, without_origin


def sample(time_us: int, **values: int) -> Sample:
    return Sample("n1", S1, time_us, 2, 10, 1, values)


async def test_a_counter_that_went_on_longer_than_another_has_its_own_last_point(
    world: World,
) -> None:
    """Energy was not read any more in the last minutes before a gap, throttling was."""
    samples = [
        sample(at(0, 3590), energy_mj=0, throttle_power_cap_us=0),
        sample(at(1, 0), throttle_power_cap_us=0),
        sample(at(1, 1), throttle_power_cap_us=1_000),
        sample(at(2, 1), energy_mj=500, throttle_power_cap_us=1_000),
        sample(at(3, 300), energy_mj=700, throttle_power_cap_us=1_000),
    ]
    await world.store(samples)
    await finish(world)
    assert without_origin(await world.rows()) == expected(samples)
