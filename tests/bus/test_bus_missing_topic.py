"""A topic that is not there: said by name, and nothing of the send was taken."""

from __future__ import annotations

import pytest
from bus_place import Place
from bus_reading import read_all, send

from collectors.contract.bus import Message, TopicMissingError


async def test_the_missing_topic_is_named_and_the_rest_can_be_sent_again(place: Place) -> None:
    there, missing = place.topic("there"), place.name("missing")
    async with place.bus(there) as bus:
        producer = bus.producer()
        await producer.start()
        both = [Message(there.name, b"k", b"first"), Message(missing, b"k", b"lost?")]
        with pytest.raises(TopicMissingError, match="create the topics first") as caught:
            await producer.send(both)
        assert caught.value.topic == missing
        await producer.stop()
        await send(bus, [Message(there.name, b"k", b"second")])
        (chunk,) = await read_all(bus, there.name, 1)
        assert list(chunk.values) == [b"second"]
