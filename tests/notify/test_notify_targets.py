"""The file of targets: every slip is named with its line and what to write."""

from __future__ import annotations

from pathlib import Path

import pytest
from notify_tools import targets_file

from collectors.kit.toml_file import ConfigError
from pipeline.notify.targets import WebhookTarget, load_targets

_GOOD = '[[targets]]\nname = "a"\nkind = "webhook"\nurl = "https://example.org/x"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[targets]]\nname = "a"\nkind = "pager"\n', "notify.toml:1: Invalid value 'pager'"),
        (_GOOD + 'secrt = "x"\n', "unknown field `secrt`"),
        (_GOOD + _GOOD, "notify.toml:5: target 'a': another target has this name"),
        (_GOOD + 'severity = "critcal"\n', "did you mean \"critical\"?"),
        (_GOOD + 'concerns = ["operators"]\n', "did you mean \"operator\"?"),
        (_GOOD + 'families = ["termal"]\n', "did you mean \"thermal\"?"),
        (_GOOD + 'timeout_s = 0\n', "`float` >= 0.1"),
        ('[[targets]]\nname = "a b"\nkind = "command"\nargv = ["x"]\n', "write letters, digits"),
        ('[[targets]]\nname = "a"\nkind = "command"\nargv = []\n', "length >= 1"),
        ('[[targets]]\nname = "a"\nkind = "webhook"\nurl = "example.org"\n', "write http://"),
        ('[[targets]]\nname = "a"\nkind = "webhook"\n', "write url, or url_file"),
        (
            '[[targets]]\nname = "a"\nkind = "alertmanager"\nurl = "http://u:p@h"\n',
            "it holds a password",
        ),
        (_GOOD + 'secret_file = "/nowhere/key"\n', "/nowhere/key: cannot be read"),
        ('[[targets]]\nname = "m"\nkind = "message"\nurl_env = "MAIL"\n', "MAIL is not set"),
        ('[[targets]]\nname = "m"\nkind = "message"\n', "write url_file, or url_env"),
        ("[[targets", "is not TOML"),
        ("[other]\n", "unknown field `other`"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_targets(targets_file(tmp_path, text), {})
    assert said in str(error.value)


def test_no_secret_is_in_a_refusal(tmp_path: Path) -> None:
    text = '[[targets]]\nname = "a"\nkind = "alertmanager"\nurl = "http://u:hunter2@h"\n'
    with pytest.raises(ConfigError) as error:
        load_targets(targets_file(tmp_path, text), {})
    assert "hunter2" not in str(error.value)


def test_a_good_file(tmp_path: Path) -> None:
    (target,) = load_targets(targets_file(tmp_path, _GOOD), {})
    assert isinstance(target, WebhookTarget)
    assert (target.name, target.severity, target.resolved) == ("a", "warning", True)
