"""What the kubelet says, over its real protocol; and peers that say it badly."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import h2.config
import h2.connection
import msgspec
import pytest
from attribution_world import GPUS, PODS, SLOTS, TEXTS, World, instances, on
from hypothesis import given
from hypothesis import strategies as st
from kubelet_server import answer, kubelet, peer

from collectors.attribution.attributor import Attributed
from collectors.attribution.pod_messages import parse_pods
from collectors.contract.topics import PRECEDENCE
from collectors.kit.clock import SystemClock

ID = [place.uuid for place in GPUS]


def says(world: World, pods: dict[str, list[str]], **more: Any):
    whole = answer(pods, **more)
    return kubelet(world.settings.pod_resources, lambda _, __: whole)


def has_logs(world: World, pod: str, number: int, changed_s: int = 1_000) -> None:
    folder = world.logs / f"{pod.replace('/', '_')}_{PODS.format(number)}"
    folder.mkdir()
    os.utime(folder, (changed_s, changed_s))


def is_alive(world: World, number: int) -> None:
    below = world.cgroups / "kubepods.slice/kubepods-burstable.slice"
    uid = PODS.format(number).replace("-", "_")
    (below / f"kubepods-burstable-pod{uid}.slice").mkdir(parents=True)


def test_a_pod_holds_its_gpus_and_is_paid_for_by_its_namespace(world: World):
    has_logs(world, "lab-a/train-0", 1)
    is_alive(world, 1)
    with says(world, {"lab-a/train-0": [ID[0], ID[2]], "lab-b/web": []}):
        found = world.poll()
    assert found.occupants == dict.fromkeys((SLOTS[0], SLOTS[2]), "k8s:lab-a/train-0")
    assert world.holds() == {"lab-a/train-0": [TEXTS[0], TEXTS[2]]}
    (one, _) = world.claims("lab-a/train-0")
    assert (one.source, one.precedence) == ("agent:n1:kubernetes", PRECEDENCE["scheduler"])
    assert (one.tenant, one.namespace) == ("lab-a", "lab-a")
    assert world.missing == {}


def test_a_node_without_a_kubelet_misses_nothing(world: World):
    assert world.poll().allocations == []
    assert world.missing == {}


DEVICES = {
    "GPU-00000001-0000-4000-8000-0000000000aa": [1],
    "gpu-00000001-0000-4000-8000-0000000000AA": [1],
    "GPU-00000001-0000-4000-8000-0000000000aa::3": [1],
    "MIG-00000000-0000-4000-8000-000000000005": ["5"],
    "MIG-00000000-0000-4000-8000-000000000005::0": ["5"],
    "MIG-GPU-00000000-0000-4000-8000-0000000000aa/5/0": ["5"],
    "MIG-GPU-00000000-0000-4000-8000-0000000000aa/5/1": [],
    "GPU-00000000-0000-4000-8000-0000000000aa": [0, "1", "5"],
    "nvidia2": [2],
    "nvidia0/gi1": ["1"],
    "nvidia0/gi1/vgpu2": ["1"],
    "nvidia3/vgpu1": [3],
    "nvidia0/gi9": [],
    "nvidia99": [],
    "GPU-ffffffff-0000-4000-8000-0000000000aa": [],
    "0": [],
    "mlx5_0": [],
    "": [],
}


@pytest.mark.parametrize("device", DEVICES)
def test_every_form_of_a_devices_name(world: World, device: str):
    parts = {"1": instances(0, 1)[0], "5": instances(0, 5)[0]}
    world.places += parts.values()
    with says(world, {"a/b": [device]}):
        found = world.poll()
    expected = {SLOTS[one] if isinstance(one, int) else parts[one].slot for one in DEVICES[device]}
    assert set(found.occupants) == expected


def test_a_duplicate_uuid_names_no_gpu(world: World):
    world.places[1] = world.places[1]._replace(uuid=ID[0])
    with says(world, {"a/b": [ID[0]]}):
        assert world.poll().occupants == {}


def test_dynamic_resources_count_where_they_name_a_gpu(world: World):
    with says(
        world, {"a/b": []}, dynamic=[f"nvidia.com/gpu={ID[1]}", "k8s.gpu.nvidia.com/d=gpu-3"]
    ):
        assert set(world.poll().occupants) == {SLOTS[1]}
    assert "gpu-3" in world.missing["kubernetes_devices"]


def test_a_dead_pod_that_is_still_listed_holds_nothing(world: World):
    has_logs(world, "lab/old", 1)
    has_logs(world, "lab/new", 2)
    is_alive(world, 2)
    with says(world, {"lab/old": [ID[0], ID[1]], "lab/new": [ID[0]]}):
        assert world.poll().occupants == {SLOTS[0]: "k8s:lab/new"}
    assert world.missing == {}


def test_a_pod_that_dies_ends_though_it_is_still_listed(world: World):
    has_logs(world, "lab/old", 1)
    is_alive(world, 1)
    has_logs(world, "lab/other", 2)
    is_alive(world, 2)
    with says(world, {"lab/old": [ID[0]], "lab/other": [ID[1]]}):
        world.poll()
        (world.cgroups / "kubepods.slice/kubepods-burstable.slice").joinpath(
            f"kubepods-burstable-pod{PODS.format(1).replace('-', '_')}.slice"
        ).rmdir()
        world.poll()
        gone_us = world.clock.wall
        world.poll()
    assert [one.to_us for one in world.claims("lab/old")] == [gone_us]
    assert world.holds() == {"lab/other": [TEXTS[1]]}


def test_of_two_that_hold_a_device_the_one_listed_later_has_it(world: World):
    with says(world, {"lab/old": [ID[0]]}):
        world.poll()
    with says(world, {"lab/old": [ID[0]], "lab/new": [ID[0]]}):
        world.poll()
        assert world.poll().occupants == {SLOTS[0]: "k8s:lab/new"}
    assert "dead_pods" in world.missing


def test_of_two_first_seen_at_once_the_one_that_began_a_container_last_has_it(world: World):
    has_logs(world, "lab/old", 1, changed_s=1_000)
    has_logs(world, "lab/new", 2, changed_s=2_000)
    with says(world, {"lab/new": [ID[0]], "lab/old": [ID[0]]}):
        assert world.poll().occupants == {SLOTS[0]: "k8s:lab/new"}


def test_of_two_that_nothing_tells_apart_none_has_it(world: World):
    with says(world, {"lab/old": [ID[0], ID[1]], "lab/new": [ID[0]]}):
        assert world.poll().occupants == {SLOTS[1]: "k8s:lab/old"}
    assert "lab/new" in world.missing["kubernetes_devices"]


def test_time_slices_are_shared(world: World):
    with says(world, {"a/one": [f"{ID[0]}::0"], "b/two": [f"{ID[0]}::1"]}):
        assert world.poll().occupants == {SLOTS[0]: "k8s:a/one,k8s:b/two"}
    assert [one.weight for one in world.told.values()] == [1, 1]


def test_a_pod_of_the_same_name_is_another_claim(world: World):
    has_logs(world, "lab/train-0", 1)
    is_alive(world, 1)
    with says(world, {"lab/train-0": [ID[0]]}):
        world.poll()
        next(world.logs.iterdir()).rmdir()
        has_logs(world, "lab/train-0", 2)
        is_alive(world, 2)
        world.poll()
        world.poll()
    first, second = world.claims("lab/train-0")
    assert first.to_us == second.from_us
    assert second.to_us is None


def test_a_uid_that_becomes_known_later_is_no_new_claim(world: World):
    with says(world, {"lab/train-0": [ID[0]]}):
        world.poll()
        has_logs(world, "lab/train-0", 1)
        is_alive(world, 1)
        world.poll()
        world.poll()
    assert [one.to_us for one in world.claims("lab/train-0")] == [None]


def test_a_kubelet_that_is_away_is_believed_for_a_while(world: World):
    world.process(10, "0::/system.slice/slurmstepd.scope/job_7/step_0")
    with says(world, {"lab/a": [ID[0]]}):
        world.poll(on(0, 10))
    for _ in range(5):
        assert world.poll(on(0, 10)).occupants == {SLOTS[0]: "k8s:lab/a"}
    assert "kubelet.sock" in world.missing["kubernetes"]
    world.clock.move(3_600)
    world.poll(on(0, 10))
    world.poll(on(0, 10))
    assert world.poll(on(0, 10)).occupants == {SLOTS[0]: "slurm:7"}


def test_a_restarted_agent_waits_for_a_kubelet_that_is_away(world: World):
    with says(world, {"lab/a": [ID[0]]}):
        world.poll()
    world.start()
    world.poll()
    assert world.poll().occupants == {SLOTS[0]: "k8s:lab/a"}
    assert "kubernetes" in world.missing


def test_a_slow_kubelet_is_waited_for_no_longer_than_set(world: World):
    released = threading.Event()

    def handle(_: bytes, __: Any) -> bytes:
        released.wait(60)
        return answer({})

    with kubelet(world.settings.pod_resources, handle):
        world.clock = SystemClock()  # type: ignore[assignment]
        _patience(world, 0.5)
        world.start()
        begun = time.monotonic()
        found = world.attributor.poll(world.places, [])
        assert time.monotonic() - begun < 30
        released.set()
    assert "kubernetes" in found.missing


def test_a_refusal_is_told(world: World):
    def handle(_: bytes, context: Any) -> bytes:
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "rejected by rate limit")
        return b""

    with kubelet(world.settings.pod_resources, handle):
        world.poll()
    assert "gRPC status 8, HTTP 200 rejected by rate limit" in world.missing["kubernetes"]


def test_a_large_answer_is_read_whole(world: World):
    pods = {f"namespace-{n}/pod-{n:050d}": [f"GPU-{n:032x}"] for n in range(20_000)}
    pods["lab/mine"] = [ID[4]]
    with says(world, pods):
        assert world.poll().occupants == {SLOTS[4]: "k8s:lab/mine"}


def test_an_answer_without_bounds_is_not(world: World):
    def handle(_: bytes, __: Any) -> bytes:
        return b"\x0a\x00" * (9 * 2**20)

    with kubelet(world.settings.pod_resources, handle):
        assert world.poll().occupants == {}
    assert "larger than" in world.missing["kubernetes"]


def _half_in_http(link: socket.socket, payload: bytes, *, end: bool) -> None:
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    connection.initiate_connection()
    link.sendall(connection.data_to_send())
    connection.receive_data(link.recv(65_536))
    connection.send_headers(1, [(":status", "200"), ("content-type", "application/grpc")])
    connection.send_data(1, payload)
    if end:
        connection.send_headers(1, [("grpc-status", "0")], end_stream=True)
    link.sendall(connection.data_to_send())


def _resets(link: socket.socket) -> None:
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    connection.initiate_connection()
    connection.receive_data(link.recv(65_536))
    connection.reset_stream(1, 2)
    link.sendall(connection.data_to_send())
    link.recv(65_536)


def _drips(link: socket.socket) -> None:
    link.recv(65_536)
    for _ in range(200):
        link.sendall(b"\0")
        threading.Event().wait(0.05)


def _listens(link: socket.socket) -> None:
    link.recv(65_536)


def _waits(_: socket.socket) -> None:
    threading.Event().wait(0.8)


FRAME = b"\0\0\0\0\x64"
BROKEN: dict[str, Callable[[socket.socket], None]] = {
    "closes at once": lambda _: None,
    "closes when asked": _listens,
    "speaks HTTP/1": lambda link: link.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    "speaks noise": lambda link: link.sendall(bytes(range(256)) * 40),
    "says nothing": _waits,
    "drips": _drips,
    "half a message": lambda link: _half_in_http(link, FRAME + b"abc", end=False),
    "half a message, ended": lambda link: _half_in_http(link, FRAME + b"abc", end=True),
    "half a prefix, ended": lambda link: _half_in_http(link, b"\0\0", end=True),
    "no protobuf": lambda link: _half_in_http(link, b"\0\0\0\0\3abc", end=True),
    "compressed": lambda link: _half_in_http(link, b"\1\0\0\0\0", end=True),
    "resets": _resets,
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_peer_ends_no_claim_and_starts_none(world: World, name: str):
    with says(world, {"lab/a": [ID[0]]}):
        world.poll()
    _patience(world, 0.5)
    with peer(world.settings.pod_resources, BROKEN[name]):
        _with_real_time(world)
        found = _with_real_time(world)
    assert "kubernetes" in found.missing
    assert found.occupants == {SLOTS[0]: "k8s:lab/a"}
    assert world.holds() == {"lab/a": [TEXTS[0]]}


def _patience(world: World, timeout_s: float) -> None:
    """Another life of the agent, with less of it."""
    world.settings = msgspec.structs.replace(world.settings, timeout_s=timeout_s)
    world.start()


def _with_real_time(world: World) -> Attributed:
    """A manual clock does not move while a peer is waited for."""
    real, manual = SystemClock(), world.clock
    before_us = real.monotonic_us()
    manual.monotonic_us = lambda: manual.monotonic + real.monotonic_us() - before_us
    try:
        return world.poll()
    finally:
        del manual.monotonic_us


def test_http2_is_loaded_only_where_there_is_a_kubelet():
    code = (
        "import sys; from collectors.attribution.attributor import Attributor; "
        "print(sorted({'h2', 'hpack', 'grpc', 'google.protobuf'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@given(st.binary(max_size=200))
def test_whatever_bytes_come_they_are_pods_or_refused(data: bytes):
    try:
        parse_pods(data)
    except ValueError:
        return


@given(st.integers(0, 400))
def test_a_cut_answer_is_refused_or_says_less(cut: int):
    whole = answer({f"ns/pod-{n}": [f"GPU-{n}"] for n in range(5)})
    try:
        pods = parse_pods(whole[:cut])
    except ValueError:
        return
    assert pods == parse_pods(whole)[: len(pods)]


def test_the_socket_may_be_in_a_folder_that_is_not_there_yet(world: World, tmp_path: Path):
    path = tmp_path / "none/kubelet.sock"
    world.settings = type(world.settings)(
        proc=world.proc, pod_resources=path, job_mappings=(), state=None
    )
    world.start()
    assert world.poll().missing == {}
