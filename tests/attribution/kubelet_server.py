"""A kubelet's pod-resources service: a real gRPC server on a Unix socket, and broken peers.

The messages are built by protobuf's own runtime from the fields of
k8s.io/kubelet/pkg/apis/podresources/v1/api.proto.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

METHOD = "/v1.PodResourcesLister/List"
_MESSAGES: Mapping[str, Sequence[tuple[str, int, str]]] = {
    "NUMANode": [("ID", 1, "int64")],
    "TopologyInfo": [("nodes", 1, "*NUMANode")],
    "ContainerDevices": [
        ("resource_name", 1, "string"),
        ("device_ids", 2, "*string"),
        ("topology", 3, "TopologyInfo"),
    ],
    "CDIDevice": [("name", 1, "string")],
    "ClaimResource": [
        ("cdi_devices", 1, "*CDIDevice"),
        ("driver_name", 2, "string"),
        ("pool_name", 3, "string"),
        ("device_name", 4, "string"),
    ],
    "DynamicResource": [
        ("class_name", 1, "string"),
        ("claim_name", 2, "string"),
        ("claim_namespace", 3, "string"),
        ("claim_resources", 4, "*ClaimResource"),
    ],
    "ContainerResources": [
        ("name", 1, "string"),
        ("devices", 2, "*ContainerDevices"),
        ("cpu_ids", 3, "*int64"),
        ("dynamic_resources", 5, "*DynamicResource"),
    ],
    "PodResources": [
        ("name", 1, "string"),
        ("namespace", 2, "string"),
        ("containers", 3, "*ContainerResources"),
        ("cpu_ids", 7, "*int64"),
    ],
    "ListPodResourcesResponse": [("pod_resources", 1, "*PodResources")],
}


def _response() -> type[Any]:
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="podresources.proto", package="v1", syntax="proto3"
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for label, number, kind in fields:
            plain = kind.removeprefix("*")
            one = message.field.add(name=label, number=number)
            one.label = field.LABEL_REPEATED if kind != plain else field.LABEL_OPTIONAL
            one.type = {"string": field.TYPE_STRING, "int64": field.TYPE_INT64}.get(
                plain, field.TYPE_MESSAGE
            )
            if plain in _MESSAGES:
                one.type_name = f".v1.{plain}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)  # pyright: ignore[reportUnknownMemberType]
    return message_factory.GetMessageClass(
        pool.FindMessageTypeByName("v1.ListPodResourcesResponse")
    )


def answer(pods: Mapping[str, Sequence[str]], *, dynamic: Sequence[str] = ()) -> bytes:
    """The answer that lists pods, `namespace/name`, with the ids of their devices.

    A pod named `…#2` is the same name listed once more.
    """
    response = _response()()
    for text, devices in pods.items():
        namespace, _, name = text.partition("#")[0].partition("/")
        pod = response.pod_resources.add(name=name, namespace=namespace, cpu_ids=[1, 300])
        container = pod.containers.add(name="main", cpu_ids=[1, 2, 70_000])
        container.devices.add(resource_name="example.com/nic", device_ids=["0", "0000:3b:02.1"])
        for device in devices:
            held = container.devices.add(resource_name="nvidia.com/gpu", device_ids=[device])
            held.topology.nodes.add(ID=1)
        for name in dynamic:
            claim = container.dynamic_resources.add(claim_name="c", claim_namespace=namespace)
            claim.claim_resources.add(driver_name="gpu.nvidia.com").cdi_devices.add(name=name)
    return response.SerializeToString()


Handler = Callable[[bytes, Any], bytes]


@contextmanager
def kubelet(path: Path, handle: Handler) -> Generator[None]:
    """A gRPC server that answers List by `handle`."""
    handler: Any = grpc.unary_unary_rpc_method_handler(handle)  # pyright: ignore[reportUnknownVariableType]
    service = grpc.method_handlers_generic_handler("v1.PodResourcesLister", {"List": handler})
    server = grpc.server(ThreadPoolExecutor(1), options=[("grpc.max_send_message_length", -1)])
    server.add_generic_rpc_handlers((service,))
    server.add_insecure_port(f"unix:{path}")
    server.start()
    try:
        yield
    finally:
        server.stop(None).wait()
        path.unlink(missing_ok=True)


@contextmanager
def peer(path: Path, talk: Callable[[socket.socket], None]) -> Generator[None]:
    """A process at the socket that is no kubelet: `talk` with each who connects."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(path))
        listening.listen()
        ended = threading.Event()

        def serve() -> None:
            while True:
                link, _ = listening.accept()
                with link, suppress(OSError):
                    if ended.is_set():
                        return
                    link.settimeout(10)
                    talk(link)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as last:
                last.connect(str(path))
            thread.join()
            path.unlink()
