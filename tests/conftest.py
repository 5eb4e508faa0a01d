"""What all tests share; fixtures of an area live beside it."""

from __future__ import annotations

import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent / "agent")]

pytest_plugins = ["stack_fixtures", "broker_fixtures", "fake_nvml_fixtures"]

# How long an example takes says something of the machine, not of the code.
settings.register_profile("petawatch", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", settings.get_profile("petawatch"), max_examples=40)
settings.load_profile("petawatch")
