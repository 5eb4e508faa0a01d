"""The Slurm watcher's settings; the one list of them.

`load` of collectors.kit.config fills it from /etc/petawatch/slurm.toml, the
environment (PETAWATCH_SLURM_…) and options; docs/settings.md is made from it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, ClassVar

from collectors.kit.config import SLURM_PREFIX, SettingsStruct, setting


class SlurmSettings(SettingsStruct, frozen=True, kw_only=True):
    """All settings of `petawatch watch-slurm`."""

    prefix: ClassVar[str] = SLURM_PREFIX
    file: ClassVar[str] = "/etc/petawatch/slurm.toml"

    bus: Annotated[
        str | None, setting("Where records go and come from: `kafka://HOST:PORT[,…]`.")
    ] = None
    topic_prefix: Annotated[str, setting("Stands before every topic's name.")] = ""
    cluster: Annotated[
        str | None, setting("The cluster's name; none: as `scontrol show config` says.")
    ] = None
    state: Annotated[
        Path | None,
        setting("File that remembers the runs which may still change; none: `slurm.json` in the "
                "state folder."),
    ] = None  # fmt: skip
    poll_s: Annotated[float, setting("Seconds between questions to slurmctld.", ge=1, le=600)] = (
        10.0
    )
    accounting_s: Annotated[
        float, setting("Seconds between questions to slurmdbd.", ge=1, le=3_600)
    ] = 30.0
    lookback_h: Annotated[
        int, setting("Hours after which the end of a run does not change any more; so far back "
                     "slurmdbd is asked once an hour.", ge=2, le=2_400),
    ] = 72  # fmt: skip
    timeout_s: Annotated[
        float, setting("Longest wait for one of Slurm's commands.", ge=1, le=600)
    ] = 60.0

    @property
    def state_path(self) -> Path:
        """Where it remembers."""
        if self.state is not None:
            return self.state
        # systemd names the folder that a service may write.
        given = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
        return Path(given or Path.home() / ".local/share/petawatch") / "slurm.json"
