"""Targets: lines, Prometheus' own lists, and what is answered to slips."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from collectors.scrape.targets import Target, TargetList, make_target, parse_lines, read_targets


def test_lines() -> None:
    text = """
    # the first rack
    http://gpu01:9400/metrics node=gpu01 rack=A01 hall=North
    gpu02:9400
    https://u:secret@gpu03/x?y=1 refresh=5   # behind a proxy
    """
    assert parse_lines(text) == [
        Target("http://gpu01:9400/metrics", "gpu01", "A01", "North"),
        Target("http://gpu02:9400/metrics"),
        Target("https://u:secret@gpu03/x?y=1", refresh_us=5_000_000),
    ]
    assert parse_lines(text)[2].shown == "https://gpu03/x"


GROUPS = [
    {"targets": ["10.0.0.1:9400"], "labels": {"nodename": "gpu01", "rack": "A01", "job": "dcgm"}},
    {"targets": ["10.0.0.2:9400", "10.0.0.3:9400"],
     "labels": {"node": "many", "__scheme__": "https", "__metrics_path__": "/gpu"}},
]  # fmt: skip


@pytest.mark.parametrize("name", ["t.json", "t.yml"])
def test_file_sd(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(json.dumps(GROUPS))  # which is YAML as well
    assert read_targets(path) == [
        Target("http://10.0.0.1:9400/metrics", "gpu01", "A01"),
        Target("https://10.0.0.2:9400/gpu"),
        Target("https://10.0.0.3:9400/gpu"),
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ftp://x/metrics", "line 1: not an exporter's address: 'ftp://x/metrics'; write http://"),
        ("\nhttp://a:99999/", "line 2: not an exporter's address"),
        ("http://a node", "line 1: write it as URL node=NAME"),
        ("http://a colour=red", "no colour=; there is: node, rack, hall, refresh"),
        ("http://a refresh=soon", "refresh=soon is no number"),
    ],
)
def test_slips_are_answered_with_the_line(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says.replace("(", r"\(").replace("?", r"\?")):
        parse_lines(text)


@pytest.mark.parametrize("text", ["{", "[1]", '[{"targets": "x"}]', ": :"])
@pytest.mark.parametrize("name", ["t.json", "t.yaml"])
def test_other_files_are_named(text: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ValueError, match=name):
        read_targets(path)


@pytest.mark.parametrize("name", ["absent.txt", "t.json", "t.txt"])
def test_a_file_that_cannot_be_read_is_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name != "absent.txt":
        path.write_bytes(b"\xff\xfe[]")
    with pytest.raises(ValueError, match=name):
        TargetList([], path)


def test_the_file_is_read_again_when_it_changes_and_kept_when_it_is_broken(tmp_path: Path) -> None:
    path = tmp_path / "targets"
    path.write_text("http://a:9400\n")
    found = TargetList(["b:9400", "a:9400"], path)
    assert [one.host for one in found.targets] == ["b", "a"]
    assert not found.reload()
    path.write_text("http://a:9400\nhttp://c:9400\n")
    assert found.reload()
    assert [one.host for one in found.targets] == ["b", "a", "c"]
    path.write_text("http://a:9400 oops\n")
    os.utime(path, ns=(1, 1))
    assert not found.reload()
    path.unlink()
    assert not found.reload()
    assert len(found.targets) == 3


def test_nothing_to_read_is_refused() -> None:
    with pytest.raises(ValueError, match="no exporter to read"):
        TargetList()
    assert make_target("a:9400").url == "http://a:9400/metrics"
