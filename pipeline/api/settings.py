"""What the API is started with, apart from the parts that it reads."""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass, field

from pipeline.settings import Settings


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address that is listened on."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """Settings of one API process; those that are secret never show in a repr.

    `password_hash` is an argon2 hash as `hash_password` makes it, `token_sha256`
    the hex digest of the programs' bearer token.  `require_login` asks for a
    login on loopback too, for a proxy on the same machine; `allowed_hosts` are
    the names by which browsers may then ask for us.
    """

    host: str = "127.0.0.1"
    password_hash: str | None = field(default=None, repr=False)
    token_sha256: str | None = field(default=None, repr=False)
    require_login: bool = False
    allowed_hosts: tuple[str, ...] = ()
    session_s: float = 12 * 3600.0
    body_limit_bytes: int = 2**20
    history_minutes: float = 15.0
    raw_keep_s: float = 24 * 3600.0
    """How far back raw samples are kept: automatic resolution asks for minutes beyond."""

    @classmethod
    def of(cls, settings: Settings) -> ApiSettings:
        """The part of the product's settings that concerns the API."""
        token = settings.api_token
        digest = hashlib.sha256(token.encode()).hexdigest() if token else settings.api_token_hash
        return cls(
            host=settings.host,
            password_hash=settings.password_hash,
            token_sha256=digest,
            require_login=settings.require_login,
            allowed_hosts=settings.allowed_hosts,
            history_minutes=settings.live_history_min,
            raw_keep_s=settings.raw_keep_days * 24 * 3600,
        )

    @property
    def login_required(self) -> bool:
        """Whether strangers are turned away."""
        return self.require_login or not is_loopback(self.host)
