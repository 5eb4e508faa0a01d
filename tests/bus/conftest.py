"""Both buses, as the contract suite sees them."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from bus_place import Place


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.stack)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Each adapter in turn."""
    prefix = f"test-{uuid.uuid4().hex[:12]}"
    if request.param == "sqlite":
        return Place("sqlite", f"sqlite:///{tmp_path / 'bus.sqlite'}", prefix)
    return Place("kafka", request.getfixturevalue("kafka_url"), prefix)
