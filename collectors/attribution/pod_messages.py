"""The six messages of the kubelet's pod-resources service, read by hand.

Protobuf's runtime would cost an agent several MB for them.  Numbers of fields
are those of k8s.io/kubelet/pkg/apis/podresources/v1/api.proto; what is not
asked for here is passed over, so that newer kubelets are understood.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WIDTH = {_FIXED64: 8, _FIXED32: 4}


class PodDevices(NamedTuple):
    """One pod and the ids of all devices that its containers hold, of whatever kind."""

    namespace: str
    name: str
    devices: tuple[str, ...]


def parse_pods(answer: bytes) -> list[PodDevices]:
    """A ListPodResourcesResponse.  Raises ValueError where it is none."""
    return [_pod(value) for number, value in _fields(answer) if number == 1]


def _pod(data: bytes) -> PodDevices:
    name, namespace, devices = "", "", dict[str, None]()
    for number, value in _fields(data):
        if number == 1:
            name = value.decode()
        elif number == 2:
            namespace = value.decode()
        elif number == 3:
            devices.update(dict.fromkeys(_container(value)))
    return PodDevices(namespace, name, tuple(devices))


def _container(data: bytes) -> Iterator[str]:
    for number, value in _fields(data):
        if number == 2:  # ContainerDevices: resource_name, device_ids, topology
            yield from (text.decode() for field, text in _fields(value) if field == 2)
        elif number == 5:  # DynamicResource: …, claim_resources
            claims = [claim for field, claim in _fields(value) if field == 4]
            for claim in claims:  # ClaimResource: cdi_devices, of each its name
                cdi = [device for field, device in _fields(claim) if field == 1]
                names = [text for one in cdi for field, text in _fields(one) if field == 1]
                yield from (name.decode().rpartition("=")[2] for name in names)


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields that have bytes, each with its number.  Raises ValueError."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind, number = tag & 7, tag >> 3
        if kind == _VARINT:
            _, at = _varint(data, at)
        elif kind == _BYTES:
            length, at = _varint(data, at)
            yield number, _cut(data, at, length)
            at += length
        elif kind in _WIDTH:
            _cut(data, at, _WIDTH[kind])
            at += _WIDTH[kind]
        else:
            raise ValueError(f"no protobuf: wire type {kind} at byte {at}")


def _cut(data: bytes, at: int, length: int) -> bytes:
    if at + length > len(data):
        raise ValueError(f"no protobuf: {length} bytes at {at} of {len(data)}")
    return data[at : at + length]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError(f"no protobuf: no number at byte {at}")
