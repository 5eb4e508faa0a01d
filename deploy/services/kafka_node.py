"""One Kafka node (KRaft) on loopback: from cached jars, from an image, or from Maven."""

from __future__ import annotations

import base64
import re
import shutil
import socket
import struct
import subprocess
import uuid
from pathlib import Path

from processes import (
    MissingError,
    Settings,
    docker_answers,
    docker_run,
    free_port,
    install,
    say,
    spawn,
    wait_for_answer,
)

VERSION = "4.3.1"
IMAGE = f"apache/kafka:{VERSION}"
_PACKAGES = ("openjdk-17-jre-headless", "maven")

_COMMON = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
    "inter.broker.listener.name": "PLAINTEXT",
    # Topics are made on purpose, with their retention, or not at all.
    "auto.create.topics.enable": "false",
    "offsets.topic.num.partitions": "1",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "500",
    # A broker that was killed is back in 6 s with these, in 13 s without.
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "500",
    "log.cleaner.dedupe.buffer.size": "16777216",
    "message.max.bytes": "10485760",
    # Retention is looked at often enough for a test to see it.
    "log.retention.check.interval.ms": "1000",
    "log.initial.task.delay.ms": "1000",
}

_LOG4J = """\
status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d %p %c{1} %m%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
"""


def start(cache: Path, data: Path, *, may_install: bool) -> Settings:
    """Starts a node and waits for its answer.  Raises MissingError."""
    port = free_port()
    settings = _start(cache, data, port, may_install=may_install)
    settings["address"] = f"127.0.0.1:{port}"
    wait_for_answer(settings, lambda: answers(settings["address"]), "Kafka")
    return settings


def _start(cache: Path, data: Path, port: int, *, may_install: bool) -> Settings:
    libs = _libs(cache)
    if may_install and _lacking():
        install(_PACKAGES)
    if not libs.is_dir() and docker_answers():
        return docker_run(_container(port), "Kafka")
    if lacking := _lacking(needs_maven=not libs.is_dir()):
        raise MissingError(
            f"Kafka: {', '.join(lacking)} missing, and no Docker engine answers."
            f" On Debian: apt-get install {' '.join(_PACKAGES)}; or give PETAWATCH_BUS=kafka://HOST:PORT."
        )
    if not libs.is_dir():
        _fetch(libs)
    return _start_from(libs, data, port)


def at_hand(cache: Path) -> bool:
    """Whether a start would neither fetch nor build."""
    return (_libs(cache).is_dir() and not _lacking(needs_maven=False)) or docker_answers()


def _libs(cache: Path) -> Path:
    return cache / f"kafka-{VERSION}" / "libs"


def _lacking(*, needs_maven: bool = True) -> list[str]:
    lacking = [] if _java_version() >= 17 else ["Java 17 or later"]
    return lacking + (["Maven"] if needs_maven and shutil.which("mvn") is None else [])


def _java_version() -> int:
    java = shutil.which("java")
    if java is None:
        return 0
    told = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr  # noqa: S603
    found = re.search(r'version "(\d+)', told)
    return int(found[1]) if found else 0


def _fetch(libs: Path) -> None:
    """Jars from Maven Central, moved into place only when all are there."""
    say(f"Kafka {VERSION}: fetching its jars (about 45 MB)")
    unfinished = libs.with_name("libs.new")
    shutil.rmtree(unfinished, ignore_errors=True)
    done = subprocess.run(  # noqa: S603
        [
            shutil.which("mvn") or "mvn",
            "-q",
            "-B",
            "-f",
            str(Path(__file__).with_name("kafka-pom.xml")),
            "dependency:copy-dependencies",
            "-DincludeScope=runtime",
            f"-DoutputDirectory={unfinished}",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise MissingError(f"Kafka: Maven could not fetch the jars.\n{done.stdout[-2000:]}")
    unfinished.rename(libs)


def _start_from(libs: Path, data: Path, port: int) -> Settings:
    data.mkdir(parents=True, exist_ok=True)
    controller = free_port()
    properties = {
        **_COMMON,
        "controller.quorum.bootstrap.servers": f"127.0.0.1:{controller}",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
        "log.dirs": str(data / "logs"),
    }
    config = data / "server.properties"
    config.write_text(
        "".join(f"{key}={value}\n" for key, value in properties.items()), encoding="utf-8"
    )
    log4j = data / "log4j2.properties"
    log4j.write_text(_LOG4J, encoding="utf-8")
    java = [
        shutil.which("java") or "java",
        f"-Dlog4j2.configurationFile={log4j}",
        "-cp",
        f"{libs}/*",
    ]
    if not (data / "logs" / "meta.properties").exists():
        _format(java, config)
    return spawn([*java, "-Xms256m", "-Xmx512m", "kafka.Kafka", str(config)], data / "kafka.log")


def _format(java: list[str], config: Path) -> None:
    cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "A", 1)
    done = subprocess.run(  # noqa: S603
        [
            *java,
            "kafka.tools.StorageTool",
            "format",
            "-t",
            cluster,
            "-c",
            str(config),
            "--standalone",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise MissingError(f"Kafka: its data folder could not be prepared.\n{done.stderr[-2000:]}")


def _container(port: int) -> list[str]:
    properties = {
        **_COMMON,
        "controller.quorum.voters": "1@localhost:9093",
        "listeners": "PLAINTEXT://:9092,CONTROLLER://:9093",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
    }
    arguments = ["--publish", f"127.0.0.1:{port}:9092"]
    for key, value in properties.items():
        arguments += ["--env", f"KAFKA_{key.upper().replace('.', '_')}={value}"]
    return [*arguments, IMAGE]


def answers(address: str) -> bool:
    """Whether a broker at HOST:PORT answers a Metadata request (version 4) with a broker in it."""
    host, _, port = address.rpartition(":")
    client = b"petawatch"
    request = struct.pack(">hhih", 3, 4, 1, len(client)) + client + struct.pack(">ib", 0, 0)
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=2) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            with connection.makefile("rb") as stream:
                header = stream.read(16)
    except OSError:
        return False
    # Length, correlation, throttle time, number of brokers.
    return len(header) == 16 and struct.unpack(">4i", header)[3] >= 1
