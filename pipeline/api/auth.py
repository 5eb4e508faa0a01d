"""Who may come in: the operators' password, sessions, and the programs' bearer token."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import re
import secrets
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.profiles import RFC_9106_LOW_MEMORY

from collectors.kit.clock import Clock
from pipeline.api.settings import ApiSettings

_MAX_SESSIONS = 1_000
_MAX_ADDRESSES = 10_000
_MAX_PASSWORD = 1_024
_FAILURES, _WINDOW_US = 5, 60_000_000
_VERIFIERS = 2
"""Passwords checked at once: each check takes 64 MiB and some 50 ms of a core, on purpose."""


def hash_password(password: str) -> str:
    """The argon2id hash (RFC 9106, low-memory profile) to configure.

    Raises ValueError for one shorter than 8 characters or longer than 1,024.
    """
    if not 8 <= len(password) <= _MAX_PASSWORD:
        raise ValueError("write a password of at least 8 and at most 1,024 characters")
    return PasswordHasher.from_parameters(RFC_9106_LOW_MEMORY).hash(password)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


@dataclass(slots=True, eq=False)
class Session:
    """A person who has logged in; ends at `expires_us` of the monotonic clock or at logout."""

    expires_us: int
    ended: bool = False

    def valid(self, now_us: int) -> bool:
        """Whether it still counts."""
        return not self.ended and now_us < self.expires_us


class Sessions:
    """Server-side sessions by the digest of their cookie; at most 1,000, the oldest goes first."""

    def __init__(self, clock: Clock, lifetime_s: float) -> None:
        self._clock = clock
        self._lifetime_us = int(lifetime_s * 1e6)
        self._by_digest: OrderedDict[str, Session] = OrderedDict()

    def open(self) -> str:
        """Begins a session; returns the cookie's value."""
        token = secrets.token_urlsafe(32)
        session = Session(self._clock.monotonic_us() + self._lifetime_us)
        self._by_digest[_digest(token)] = session
        while len(self._by_digest) > _MAX_SESSIONS:
            self._by_digest.popitem(last=False)[1].ended = True
        return token

    def find(self, token: str) -> Session | None:
        """The valid session of a cookie; one that has expired is forgotten."""
        digest = _digest(token)
        session = self._by_digest.get(digest)
        if session is not None and not session.valid(self._clock.monotonic_us()):
            del self._by_digest[digest]
            return None
        return session

    def close(self, token: str) -> None:
        """Ends a session: whoever holds it is no longer let in."""
        session = self._by_digest.pop(_digest(token), None)
        if session is not None:
            session.ended = True


class LoginLimiter:
    """At most 5 failures a minute per address (IPv6: per /64); 10,000 addresses are remembered."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, deque[int]] = OrderedDict()

    def wait_s(self, address: str) -> float:
        """Seconds until the address may try again, 0 when it may now."""
        times = self._failures.get(_network(address))
        if times is None:
            return 0.0
        now_us = self._clock.monotonic_us()
        while times and times[0] <= now_us - _WINDOW_US:
            times.popleft()
        return (times[0] + _WINDOW_US - now_us) / 1e6 if len(times) >= _FAILURES else 0.0

    def begin(self, address: str) -> Callable[[], None]:
        """Counts an attempt as failed until the function returned is called.

        Counted before the password is checked, so that attempts side by side
        cannot slip under the limit.
        """
        key = _network(address)
        times = self._failures.setdefault(key, deque(maxlen=_FAILURES))
        times.append(self._clock.monotonic_us())
        self._failures.move_to_end(key)
        while len(self._failures) > _MAX_ADDRESSES:
            self._failures.popitem(last=False)

        def forget() -> None:
            self._failures.pop(key, None)

        return forget


def _network(address: str) -> str:
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((ip, 64), strict=False)) if ip.version == 6 else address


class Access:
    """Decides who comes in.

    Raises ValueError, with what to do, where a login is needed and none is
    configured, or a hash is none.
    """

    def __init__(self, settings: ApiSettings, clock: Clock) -> None:
        check_login(settings)
        self.login_required = settings.login_required
        self.sessions = Sessions(clock, settings.session_s)
        self.limiter = LoginLimiter(clock)
        self.internal_token = secrets.token_urlsafe(32)
        """Lets the pages of this process ask the API; it lives as long as the process."""
        self._password_hash = settings.password_hash
        self._digests = [_digest(self.internal_token)]
        if settings.token_sha256:
            self._digests.append(settings.token_sha256.lower())
        self._hasher = PasswordHasher()
        self._turn = asyncio.Semaphore(_VERIFIERS)

    def token_valid(self, token: str) -> bool:
        """Whether a bearer token is ours; takes the same time whatever is wrong with it."""
        digest = _digest(token)
        # Summed, not `any`: every digest is compared, whichever matches.
        return sum(hmac.compare_digest(digest, known) for known in self._digests) > 0

    async def password_valid(self, password: str) -> bool:
        """Whether the operators' password is right; checked in a thread, two at a time."""
        if self._password_hash is None or len(password) > _MAX_PASSWORD:
            return False
        async with self._turn:
            return await asyncio.to_thread(self._verify, self._password_hash, password)

    def _verify(self, password_hash: str, password: str) -> bool:
        try:
            return self._hasher.verify(password_hash, password)
        except (VerificationError, InvalidHashError):
            return False


def check_login(settings: ApiSettings) -> None:
    """Raises ValueError, with what to do, where a login is needed and none can work."""
    if settings.login_required and not settings.password_hash:
        raise ValueError(
            f"listening on {settings.host} needs a login: make a hash of a password with "
            "`petawatch serve --hash-password` and give it as PETAWATCH_PASSWORD_HASH, or in a "
            "file named by PETAWATCH_PASSWORD_HASH_FILE; or listen on 127.0.0.1"
        )
    if settings.password_hash and not settings.password_hash.startswith("$argon2"):
        raise ValueError(
            "the password hash is not one of argon2: make it with `petawatch serve --hash-password`"
        )
    if settings.token_sha256 and not re.fullmatch("[0-9a-fA-F]{64}", settings.token_sha256):
        raise ValueError(
            "the API token's hash is not a SHA-256 in hex: make it with "
            "`printf %s TOKEN | sha256sum`, or give the token itself as PETAWATCH_API_TOKEN"
        )
