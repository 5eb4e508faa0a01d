"""The simulator as a source of records: in real time, N times faster, or as fast as it goes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

from tenacity import (
    AsyncRetrying,
    retry_any,
    retry_if_exception_type,
    stop_when_event_set,
    wait_random_exponential,
)

from collectors.contract.bus import BusUnavailableError, Message, Producer, RefusedError
from collectors.contract.inventory import Inventory
from collectors.contract.record import Origin
from collectors.contract.source import SourceOptions
from collectors.contract.topics import ALLOC, GPU, Allocation, dumps
from collectors.kit.clock import Clock
from collectors.simulator.claims import OpenClaims
from collectors.simulator.fleet import PHASE_SHARE, Fleet, Tick
from collectors.simulator.sites import make_site
from collectors.simulator.truth import TruthWriter
