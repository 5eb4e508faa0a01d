#!/usr/bin/env python3
"""For a target of kind `command`: takes the node of an incident out of service.

    argv = ["/usr/bin/python3", "/opt/petawatch/deploy/hooks/drain_node.py", "slurm"]

`slurm` drains it (`scontrol`), `kubernetes` cordons it (`kubectl`); what runs is left to end, and
putting it back is people's work.  Reads the notice on its input and needs Python alone.  It leaves
the node alone, and says why, where the notice is a test or an end, where the incident is of a
simulation or a recording, and where it is of more than `--most` nodes (1): a rack is not drained by
a machine.  A status other than 0 has the notifier try again.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from typing import Any

_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
_PATIENCE_S = 30


def nodes_of(notice: dict[str, Any]) -> list[str]:
    """The nodes that an incident names, its own and its members'."""
    incident = notice["incident"]
    subjects = [incident["subject"], *(one["subject"] for one in incident.get("members", []))]
    return sorted({one["node"] for one in subjects if one.get("node")})


def why_not(notice: dict[str, Any], nodes: list[str], most: int) -> str:
    """Why nothing is done; "" where something is."""
    if notice["kind"] not in ("opened", "worse"):
        return f"a notice of kind {notice['kind']} drains nothing"
    origin = notice["incident"].get("origin", "")
    if origin in ("simulated", "replayed"):
        return f"the incident is {origin}"
    if not nodes:
        return "the incident names no node"
    if len(nodes) > most:
        return f"the incident is of {len(nodes)} nodes, more than {most}"
    strange = [node for node in nodes if not _NODE.fullmatch(node)]
    return f"{strange[0]!r} is no name of a node" if strange else ""


def command(manager: str, node: str, reason: str) -> list[str]:
    """What is run for one node."""
    if manager == "kubernetes":
        return ["kubectl", "cordon", node]
    return ["scontrol", "update", f"NodeName={node}", "State=DRAIN", f"Reason={reason}"]


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("manager", choices=("slurm", "kubernetes"))
    parser.add_argument("--most", type=int, default=1, help="nodes of one incident [1]")
    options = parser.parse_args()
    notice: dict[str, Any] = json.load(sys.stdin)
    nodes = nodes_of(notice)
    reason = why_not(notice, nodes, options.most)
    if reason:
        print(f"nothing is drained: {reason}")
        return 0
    title = f"petawatch {notice['incident']['id']}: {notice['incident']['title']}"
    for node in nodes:
        wanted = command(options.manager, node, title[:200])
        subprocess.run(wanted, check=True, timeout=_PATIENCE_S)  # noqa: S603
    return 0


if __name__ == "__main__":
    sys.exit(main())
