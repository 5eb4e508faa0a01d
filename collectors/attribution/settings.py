"""Where attribution looks, and how patient it is."""

from __future__ import annotations

from pathlib import Path

import msgspec


class AttributionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Paths are the host's: in a container each is where the host's is mounted."""

    proc: Path = Path("/proc")
    """Must be of the host's process namespace, else processes say nothing."""
    cgroups: Path = Path("/sys/fs/cgroup")
    """Tells which pods and jobs are alive."""
    pod_resources: Path = Path("/var/lib/kubelet/pod-resources/kubelet.sock")
    pod_logs: Path = Path("/var/log/pods")
    """Its folders are named NAMESPACE_POD_UID: the only place where a node joins the three."""
    job_mappings: tuple[Path, ...] = (Path("/run/petawatch/jobs"),)
    """Folders that a scheduler's prolog writes into (docs/attribution.md)."""
    state: Path | None = None
    """File of the claims that are open.  Without it a claim that ended while the agent was
    away stays open for ever."""
    timeout_s: float = 3.0
    """Longest wait for the kubelet."""
    keep_s: float = 3_600.0
    """How long a source that does not answer is believed to say what it said last."""
    dead_job_s: float = 300.0
    """A job whose cgroup is gone for so long has left its mapping file behind."""
