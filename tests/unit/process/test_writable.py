"""Workers that could not write what they are to keep: told when the configuration is tested."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ngxstream.process import writable
from ngxstream.process.directives import User
from tests.support.proxies import ProxyFactory

SOMEBODY = User("nobody", 1001, 1002)


@pytest.mark.parametrize(("mode", "uid", "gid", "may"), [
    (0o700, 1001, 0, True), (0o500, 1001, 1002, False), (0o770, 0, 1002, True),
    (0o750, 0, 1002, False), (0o755, 0, 0, False), (0o777, 0, 0, True), (0o772, 0, 0, False),
    (0o077, 1001, 1002, False),
])
def test_the_mode_of_the_folder_says_who_may(
    monkeypatch: pytest.MonkeyPatch, mode: int, uid: int, gid: int, may: bool
) -> None:
    """As the kernel reckons: the owner's bits for the owner, the group's for its members."""
    status = os.stat_result((0o40000 | mode, 1, 1, 1, uid, gid, 0, 0, 0, 0))
    monkeypatch.setattr(writable.os, "stat", lambda _: status)
    assert ("" if may else "(13: Permission denied)") == writable.refusal("/f", SOMEBODY)
    assert "" == writable.refusal("/f", User("root", 0, 0))


def test_what_is_no_folder_is_told(tmp_path: Path) -> None:
    """A file, and what is not there."""
    (tmp_path / "file").touch()
    for user in (None, SOMEBODY):
        assert "(20: Not a directory)" == writable.refusal(str(tmp_path / "file"), user)
        assert "(2: No such file or directory)" == writable.refusal(str(tmp_path / "no"), user)
    assert "" == writable.refusal(str(tmp_path), None)


def test_a_test_of_the_configuration_warns(ngxstream: ProxyFactory) -> None:
    """It is no reason not to start: nobody may want to change anything."""
    program = ngxstream(
        "events {} stream { upstream u { zone z 64k; state no/such/u.conf; } "
        "server { listen 127.0.0.1:@a@; proxy_pass u; } }", start=False,
    )
    verdict = program.test()
    assert 0 == verdict.code
    folder = program.prefix / "no/such"
    (line,) = [one for one in verdict.stderr.splitlines() if "[warn]" in one]
    assert f'state file "{folder}/u.conf" cannot be written' in line
    assert line.endswith(f'folder "{folder}" (2: No such file or directory)')
