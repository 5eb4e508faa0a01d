"""Makes, once, the secrets that the composed services share; never prints one.

Writes into /run/petawatch/influx (token and password of InfluxDB) and
/run/petawatch/login (the operators' password and its hash, the API's token and
its hash).  What is there already stays.
"""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path

from argon2 import PasswordHasher

INFLUX, LOGIN = Path("/run/petawatch/influx"), Path("/run/petawatch/login")


def keep(path: Path, text: str, *, mode: int = 0o440) -> str:
    """The file's text, made with `text` where it is not there yet."""
    if not path.exists():
        unfinished = path.with_suffix(".new")
        unfinished.write_text(text + "\n")
        unfinished.chmod(mode)
        unfinished.replace(path)
    return path.read_text().strip()


def main() -> None:
    """Makes all of them."""
    # InfluxDB's image reads its own as another user: the folder's volume is what guards them.
    keep(INFLUX / "token", secrets.token_urlsafe(32), mode=0o444)
    keep(INFLUX / "password", secrets.token_urlsafe(24), mode=0o444)
    password = keep(LOGIN / "password", secrets.token_urlsafe(12))
    keep(LOGIN / "password_hash", PasswordHasher().hash(password))
    token = keep(LOGIN / "api_token", secrets.token_urlsafe(32))
    keep(LOGIN / "api_token_hash", hashlib.sha256(token.encode()).hexdigest())


if __name__ == "__main__":
    main()
