"""Half of the simulated tenants as a scheduler would name them: by account, with a tenants file.

So a self-test covers who is who too.  Each account's rule is in two parts that
meet at a whole minute: the owner is the same, by one line and then by another.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import msgspec

from collectors.contract.topics import Allocation, dumps


class Accounts:
    """Puts accounts in the place of tenants, and writes the file that says whose they are."""

    def __init__(self, cut_us: int) -> None:
        """`cut_us` is where every rule ends and the next one of its account begins."""
        self._cut = datetime.fromtimestamp(cut_us // 60_000_000 * 60, UTC)
        self._seen: set[tuple[str, str]] = set()

    def told(self, value: bytes) -> bytes:
        """A record as it is sent: every second tenant's under an account."""
        one = msgspec.json.decode(value, type=Allocation)
        if not one.tenant or hashlib.sha256(one.tenant.encode()).digest()[0] % 2:
            return value
        self._seen.add((one.tenant, one.project))
        account = f"{one.tenant}.{one.project}"
        return dumps(msgspec.structs.replace(one, tenant="", project="", account=account))

    def file(self) -> str:
        """The text of the tenants file."""
        projects: dict[str, list[str]] = {}
        for tenant, project in sorted(self._seen):
            projects.setdefault(tenant, []).append(project)
        lines: list[str] = []
        for tenant, mine in projects.items():
            shown = ", ".join(f'"{one}"' for one in mine if one)
            lines += ["[[tenants]]", f'id = "{tenant}"', f"projects = [{shown}]"]
        for tenant, project in sorted(self._seen):
            for bound in ("to", "from"):
                lines += ["[[names]]", f'tenant = "{tenant}"', f'accounts = ["{tenant}.{project}"]']
                lines += [f'project = "{project}"'] if project else []
                lines += [f"{bound} = {self._cut:%Y-%m-%dT%H:%M:%SZ}"]
        return "\n".join([*lines, ""])
