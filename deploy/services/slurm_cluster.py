"""A real Slurm on loopback from Debian's packages: controller, accounting, two nodes of four GPUs.

munged, MariaDB, slurmdbd, slurmctld and two slurmd, each with its own port and
files below one folder; nothing of the machine's own Slurm is used or changed.
The GPUs are device files that nothing is behind, so jobs are given indices and
cannot compute.  Needs root, since slurmd starts jobs as their users.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from processes import MissingError, free_port, install, wait_until

PACKAGES = ("slurm-wlm", "slurmdbd", "munge", "mariadb-server")
CLUSTER = "petawatch"
NODES, GPUS_PER_NODE, GPU_TYPE = ("n1", "n2"), 4, "h800"
_PROGRAMS = ("slurmctld", "slurmd", "slurmdbd", "munged", "mungekey", "mariadbd", "sbatch", "sacct")
_CPUS = 8


def lacking() -> str:
    """What is missing here for a cluster, in words; "" where nothing is."""
    if os.geteuid() != 0:
        return "Slurm: slurmd starts jobs as their users, which takes root"
    missing = [name for name in _PROGRAMS if not _program(name)]
    if not missing:
        return ""
    return f"Slurm: {', '.join(missing)} missing; on Debian: apt-get install {' '.join(PACKAGES)}"


def _program(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


class SlurmCluster:
    """A cluster below `data`, with a prolog and an epilog if they are given."""

    def __init__(
        self, data: Path, *, prolog: Path | None = None, epilog: Path | None = None
    ) -> None:
        self.data = data
        self._hooks = {"Prolog": prolog, "Epilog": epilog}
        self._host = socket.gethostname().partition(".")[0]
        self._ports = {name: free_port() for name in ("db", "dbd", "ctld", *NODES)}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.environ = {"SLURM_CONF": str(data / "slurm.conf")}
        """What every Slurm command needs in its environment."""

    def start(self, *, may_install: bool = False) -> None:
        """Starts all of it and waits until both nodes are idle.  Raises MissingError."""
        if may_install and lacking() and os.geteuid() == 0:
            install(PACKAGES)
        if reason := lacking():
            raise MissingError(reason)
        self.data.mkdir(parents=True, exist_ok=True)
        self.data.chmod(0o755)
        try:
            self._write_configuration()
            self._start_munge()
            self._start_database()
            self._start_accounting()
            self.start_controller()
            for node in NODES:
                self._spawn(f"slurmd-{node}", "slurmd", "-D", "-N", node)
            self._wait("slurmd-n1", "its nodes", self._are_idle)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends all of it, in the reverse order of the start."""
        for name in reversed(list(self._running)):
            self._end(name)

    def _end(self, name: str, *, at_once: bool = False) -> None:
        process = self._running.pop(name)
        if not at_once:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10.0)
        process.kill()
        process.wait()

    def start_controller(self) -> None:
        """Starts slurmctld; after `stop_controller` with what it had saved."""
        self._spawn("slurmctld", "slurmctld", "-D")
        self._wait("slurmctld", "slurmctld", lambda: self._answers("scontrol", "ping", says=" UP"))

    def stop_controller(self, *, at_once: bool = False) -> None:
        """Ends slurmctld; `at_once` as a crash would, after which it has lost what was new."""
        self._end("slurmctld", at_once=at_once)

    def run(self, *command: str, within_s: float = 60.0) -> str:
        """One Slurm command's output.  Raises CalledProcessError."""
        return subprocess.run(  # noqa: S603
            command,
            env={**os.environ, **self.environ},
            capture_output=True,
            text=True,
            check=True,
            timeout=within_s,
        ).stdout

    def add_accounts(self, names: Sequence[str], user: str = "root") -> None:
        """Accounts, and a user who may spend all of them."""
        joined = ",".join(names)
        self.run("sacctmgr", "-i", "add", "account", joined)
        self.run("sacctmgr", "-i", "add", "user", user, f"account={joined}")

    def _write_configuration(self) -> None:
        (self.data / "state").mkdir(exist_ok=True)
        devices = self.data / "dev"
        devices.mkdir(exist_ok=True)
        for number in range(GPUS_PER_NODE):
            # With plain files Slurm runs too, but hands out no indices.
            device = devices / f"gpu{number}"
            if not device.exists():
                os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        accounting = self.data / "slurmdbd.conf"
        accounting.touch(mode=0o600)
        accounting.write_text(self._lines(self._accounting()), encoding="utf-8")
        gres = "".join(
            f"NodeName={node} Name=gpu Type={GPU_TYPE} File={devices}/gpu[0-{GPUS_PER_NODE - 1}]\n"
            for node in NODES
        )
        (self.data / "gres.conf").write_text(gres, encoding="utf-8")
        nodes = "".join(
            f"NodeName={node} NodeAddr=127.0.0.1 NodeHostname={self._host} Port={self._ports[node]}"
            f" CPUs={_CPUS} Sockets=1 CoresPerSocket={_CPUS} ThreadsPerCore=1 RealMemory=4000"
            f" Gres=gpu:{GPU_TYPE}:{GPUS_PER_NODE}\n"
            for node in NODES
        )
        text = self._lines(self._controller()) + nodes
        text += (
            f"PartitionName=main Nodes={','.join(NODES)} Default=YES MaxTime=60 OverSubscribe=NO\n"
        )
        (self.data / "slurm.conf").write_text(text, encoding="utf-8")

    @staticmethod
    def _lines(values: Mapping[str, object]) -> str:
        return "".join(f"{name}={value}\n" for name, value in values.items())

    @property
    def _munge_socket(self) -> Path:
        return self.data / "munge" / "socket"

    def _accounting(self) -> dict[str, object]:
        return {
            "AuthType": "auth/munge",
            "AuthInfo": f"socket={self._munge_socket}",
            "DbdHost": self._host,
            "DbdAddr": "127.0.0.1",
            "DbdPort": self._ports["dbd"],
            "SlurmUser": "root",
            "LogFile": self.data / "slurmdbd.log",
            "PidFile": self.data / "slurmdbd.pid",
            "StorageType": "accounting_storage/mysql",
            "StorageHost": "127.0.0.1",
            "StoragePort": self._ports["db"],
            "StorageUser": "slurm",
            "StoragePass": "slurm",
            "StorageLoc": "slurm",
        }

    def _controller(self) -> dict[str, object]:
        fixed: dict[str, object] = {
            "ClusterName": CLUSTER,
            "SlurmctldHost": f"{self._host}(127.0.0.1)",
            "SlurmUser": "root",
            "SlurmctldPort": self._ports["ctld"],
            "AuthType": "auth/munge",
            # A requeued job waits until what the first run was sent with has expired.
            "AuthInfo": f"socket={self._munge_socket},cred_expire=5",
            "StateSaveLocation": self.data / "state",
            "SlurmdSpoolDir": f"{self.data}/spool-%n",
            "SlurmctldPidFile": self.data / "slurmctld.pid",
            "SlurmdPidFile": f"{self.data}/slurmd-%n.pid",
            "SlurmctldLogFile": self.data / "slurmctld.log",
            "SlurmdLogFile": f"{self.data}/slurmd-%n.log",
            "ProctrackType": "proctrack/pgid",
            "TaskPlugin": "task/none",
            "MpiDefault": "none",
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_Core",
            "SchedulerParameters": "sched_interval=1,sched_min_interval=0,batch_sched_delay=0",
            "GresTypes": "gpu",
            "AccountingStorageType": "accounting_storage/slurmdbd",
            "AccountingStorageHost": "127.0.0.1",
            "AccountingStoragePort": self._ports["dbd"],
            # With munge it is the socket by which the commands reach slurmdbd.
            "AccountingStoragePass": self._munge_socket,
            "AccountingStorageTRES": "gres/gpu",
            "JobAcctGatherType": "jobacct_gather/none",
            "PrologFlags": "Alloc",
            "ReturnToService": 2,
            # The CPUs may be more than the machine has: nobody computes here.
            "SlurmdParameters": "config_overrides",
            "KillWait": 1,
            "CompleteWait": 0,
        }
        return fixed | {name: path for name, path in self._hooks.items() if path is not None}

    def _spawn(self, name: str, program: str, *arguments: str | Path) -> None:
        command = [_program(program) or program, *map(str, arguments)]
        with (self.data / f"{name}.out").open("ab") as output:
            self._running[name] = subprocess.Popen(  # noqa: S603
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={**os.environ, **self.environ},
            )

    def _wait(self, name: str, what: str, true: Callable[[], bool]) -> None:
        if not wait_until(true, 60.0):
            raise MissingError(f"Slurm: {what} did not come up.\n{self._log(name)}")

    def _log(self, name: str) -> str:
        path = self.data / f"{name}.out"
        return path.read_text(encoding="utf-8", errors="replace")[-2000:] if path.exists() else ""

    def _answers(self, *command: str, says: str) -> bool:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            return says in self.run(*command, within_s=20.0)
        return False

    def _start_munge(self) -> None:
        folder = self.data / "munge"
        folder.mkdir(mode=0o755, exist_ok=True)
        key = folder / "key"
        if not key.exists():
            self.run(_program("mungekey") or "mungekey", "-c", "-k", str(key))
        self._spawn(
            "munged", "munged", "--foreground", "--force", f"--socket={self._munge_socket}",
            f"--key-file={key}", f"--seed-file={folder / 'seed'}", f"--pid-file={folder / 'pid'}",
            f"--log-file={folder / 'log'}",
        )  # fmt: skip
        self._wait("munged", "munged", self._munge_socket.exists)

    def _start_database(self) -> None:
        folder = self.data / "mariadb"
        options = ["--no-defaults", f"--datadir={folder}", "--user=root"]
        if not folder.exists():
            folder.mkdir()
            self.run("mariadb-install-db", *options, "--skip-test-db", "--auth-root-authentication-method=normal")  # fmt: skip
        self._spawn(
            "mariadbd", "mariadbd", *options, f"--port={self._ports['db']}", "--bind-address=127.0.0.1",
            f"--socket={folder}/socket", f"--pid-file={folder}/pid",
            "--innodb-buffer-pool-size=64M", "--innodb-log-file-size=16M", "--innodb-flush-log-at-trx-commit=0",
        )  # fmt: skip
        client = ["mariadb", "--no-defaults", f"--socket={folder}/socket", "-e"]
        self._wait("mariadbd", "MariaDB", lambda: self._answers(*client, "select 1", says="1"))
        self.run(
            *client,
            "create database if not exists slurm;"
            "create user if not exists slurm@'127.0.0.1' identified by 'slurm';"
            "create user if not exists slurm@localhost identified by 'slurm';"
            "grant all on slurm.* to slurm@'127.0.0.1';grant all on slurm.* to slurm@localhost",
        )

    def _start_accounting(self) -> None:
        self._spawn("slurmdbd", "slurmdbd", "-D")
        self._wait(
            "slurmdbd",
            "slurmdbd",
            lambda: self._answers("sacctmgr", "-n", "show", "cluster", says=""),
        )
        with contextlib.suppress(subprocess.CalledProcessError):  # it is there after a restart
            self.run("sacctmgr", "-i", "add", "cluster", CLUSTER)

    def _are_idle(self) -> bool:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            return self.run("sinfo", "-h", "-N", "-o", "%t").split() == ["idle"] * len(NODES)
        return False
