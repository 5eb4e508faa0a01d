"""The published Protobuf schema, made from the catalogue so that neither can drift.

`docs/petawatch.proto` is `proto_text()`; a test compares them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from collectors.contract.catalogue import CATALOGUE, Kind, Metric

HEADER: tuple[tuple[int, str, str, str], ...] = (
    (1, "schema", "fixed32", "Version of this schema."),
    (2, "origin", "fixed32", "1 measured, 2 replayed, 3 simulated."),
    (3, "run", "fixed64", "The agent's run: its start in ms above 20 random bits."),
    (4, "sequence", "fixed64", "Counts the run's records from 0."),
    (5, "time_us", "fixed64", "Event time in µs since 1970 UTC."),
    (6, "label_epoch", "fixed64", "Counts changes of labels, occupants and counter epochs."),
    (7, "node", "string", "The node's name."),
    (8, "slots", "repeated fixed64", "Slots: (gi + 1) << 56 | (ci + 1) << 48 | PCI address."),
    (9, "energy_epochs", "repeated fixed64", "Per slot, what its energy counter continues over."),
)
LABELS_FIELD = 10
LABELS: tuple[tuple[int, str, str], ...] = (
    (1, "slot", "fixed64"),
    (2, "uuid", "string"),
    (3, "model", "string"),
    (4, "serial", "string"),
    (5, "occupant", "string"),
)
_LABEL_OPTIONAL, _LABEL_REPEATED = 1, 3
_TYPES = {"fixed32": 7, "fixed64": 6, "string": 9, "float": 2, "message": 11}
"""Numbers of descriptor.proto's FieldDescriptorProto, so that the agent needs no runtime."""


def _metric_type(metric: Metric) -> str:
    return "float" if metric.kind is Kind.GAUGE else "fixed64"


def proto_text() -> str:
    """The schema as a `.proto` file, for any Protobuf consumer."""
    lines = [
        "// Petawatch: one node's GPUs at one tick.  Made from the catalogue; do not edit.",
        "// Arrays run parallel to `slots`.  Absent is NaN in a float array and 2^64-1 in a",
        "// fixed64 array; a metric that no slot has is left out.",
        'syntax = "proto3";',
        "package petawatch;",
        "",
        "message SlotLabels {",
        *(f"  {kind} {name} = {number};" for number, name, kind in LABELS),
        "}",
        "",
        "message NodeRecord {",
    ]
    for number, name, kind, text in HEADER:
        packed = " [packed = true]" if kind.startswith("repeated") else ""
        lines.append(f"  {kind} {name} = {number}{packed};  // {text}")
    lines.append(
        f"  repeated SlotLabels labels = {LABELS_FIELD};  // Only on change and once a minute."
    )
    for metric in CATALOGUE:
        unit = f" [{metric.unit}]" if metric.unit else ""
        lines.append(
            f"  repeated {_metric_type(metric)} {metric.name} = {metric.number}"
            f" [packed = true];  // {metric.help}{unit}"
        )
    return "\n".join([*lines, "}", ""])


def _field(message: Any, number: int, name: str, kind: str) -> None:
    repeated = kind.startswith("repeated ")
    message.field.add(
        name=name,
        number=number,
        type=_TYPES[kind.removeprefix("repeated ")],
        label=_LABEL_REPEATED if repeated else _LABEL_OPTIONAL,
    )


@lru_cache(maxsize=4)
def _message_class(metrics: tuple[Metric, ...]) -> Any:
    # Only here: an agent writes records without the runtime, which is a third of its memory.
    from google.protobuf import (  # noqa: PLC0415
        descriptor_pb2,
        descriptor_pool,
        message_factory,
    )

    file = descriptor_pb2.FileDescriptorProto(
        name="petawatch.proto", package="petawatch", syntax="proto3"
    )
    labels = file.message_type.add(name="SlotLabels")
    for number, name, kind in LABELS:
        _field(labels, number, name, kind)
    record = file.message_type.add(name="NodeRecord")
    for number, name, kind, _ in HEADER:
        _field(record, number, name, kind)
    record.field.add(
        name="labels",
        number=LABELS_FIELD,
        type=_TYPES["message"],
        type_name=".petawatch.SlotLabels",
        label=_LABEL_REPEATED,
    )
    for metric in metrics:
        _field(record, metric.number, metric.name, f"repeated {_metric_type(metric)}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("petawatch.NodeRecord"))


def message_class() -> Any:
    """The `NodeRecord` message class of the ordinary Protobuf runtime, for today's catalogue."""
    return _message_class(CATALOGUE.metrics)
