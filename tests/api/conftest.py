"""Fixtures of the API's tests."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from api_parts import Centre, open_centre


@pytest.fixture
async def centre(tmp_path: Path) -> AsyncGenerator[Centre]:
    """The real parts behind an API."""
    async with open_centre(tmp_path) as parts:
        yield parts
