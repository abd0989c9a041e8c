"""Finding the API in the configuration of the program."""

import os
from pathlib import Path

import pytest

from ngxstream.ctl import find
from ngxstream.ctl.client import UNREACHABLE, CtlError


def conf(folder: Path, stream: str) -> list[str]:
    """Write a configuration; return the options that name it."""
    path = folder / "n.conf"
    path.write_text(f"events {{}}\nstream {{ {stream} }}\n")
    return ["-c", str(path), "-p", str(folder)]


@pytest.mark.parametrize(
    ("stream", "url", "write"),
    [
        ("server { listen 127.0.0.1:81; api; }", "http://127.0.0.1:81/api", False),
        ("server { listen 82; api write=on; allow 127.0.0.1; deny all; }",
         "http://127.0.0.1:82/api", True),
        ("server { listen [::]:83; api; }", "http://[::1]:83/api", False),
        ("server { listen [::1]:83; api prefix=/s; }", "http://[::1]:83/s", False),
        ("server { listen unix:/r/a.sock; api; }", "unix:/r/a.sock:/api", False),
        # write=on before read-only, a Unix socket before an address
        ("server { listen unix:/r/a.sock; api; } server { listen 127.0.0.1:81; api write=on; }",
         "http://127.0.0.1:81/api", True),
        ("server { listen 127.0.0.1:81; api; } server { listen unix:/r/a.sock; api; }",
         "unix:/r/a.sock:/api", False),
        # who wants a PROXY header is not for us
        ("server { listen 127.0.0.1:81 proxy_protocol; api; } server { listen 127.0.0.1:82; api; }",
         "http://127.0.0.1:82/api", False),
        # what another server says of the address
        ("server { listen 127.0.0.1:81 ssl; return x; } server { listen 127.0.0.1:81; api; }",
         "https://127.0.0.1:81/api", False),
        # what the program serves on with while its file is being edited, and what others may not
        # read, or what takes long
        ("server { listen 127.0.0.1:81; api; nonsense; } nonsense;",
         "http://127.0.0.1:81/api", False),
        ("server { listen 127.0.0.1:81; api; } server { listen 127.0.0.1:82",
         "http://127.0.0.1:81/api", False),
        ("server { listen 127.0.0.1:81; api_user_file /none; ssl_certificate_key /none; api; }",
         "http://127.0.0.1:81/api", False),
        ("server { proxy_pass name.invalid:1; } server { listen 127.0.0.1:81; api; }",
         "http://127.0.0.1:81/api", False),
        ("py_import none; server { listen nowhere.invalid:1; listen 127.0.0.1:81; api; }",
         "http://127.0.0.1:81/api", False),
    ],
)
def test_the_best_api_is_found(tmp_path: Path, stream: str, url: str, write: bool) -> None:
    """Of those that the configuration has."""
    assert find.Found(url, write) == find.find(conf(tmp_path, stream))


@pytest.mark.parametrize(
    ("stream", "text"),
    [
        ("server { listen 81; return x; }", "add one, for example"),
        ("server { listen 81; include /none; }", r'open\(\) "/none" failed .* in '),
        ("server { listen 81 udp; api; }", "add one, for example"),
    ],
)
def test_what_is_not_found_is_told(tmp_path: Path, stream: str, text: str) -> None:
    """With what to do about it."""
    with pytest.raises(CtlError, match=text) as raised:
        find.find(conf(tmp_path, stream))
    assert UNREACHABLE == raised.value.code


def test_a_server_of_an_included_file_is_found(tmp_path: Path) -> None:
    """Whole servers stand there, and what stands in a server."""
    (tmp_path / "server.inc").write_text("server { include content.inc; }")
    (tmp_path / "content.inc").write_text("listen 127.0.0.1:81; api write=on;")
    given = conf(tmp_path, "include *.inc; include server.inc;")
    assert find.Found("http://127.0.0.1:81/api", True) == find.find(given)


def test_of_several_masters_each_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its pid and its options, which choose it."""
    upgraded = ["-p", "a", "-c", "b.conf"], "/x"
    masters = [(7, [], "/"), (12, *upgraded), (13, *upgraded)]
    monkeypatch.setattr(find, "_masters", lambda: iter(masters))
    text = r"2 programs run, .*: 7 \(no options\); 12, 13 \(-p /x/a -c b\.conf\)"
    with pytest.raises(CtlError, match=text):
        find.find([])


def test_two_masters_of_an_upgrade_are_one_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have the same configuration, and the same addresses."""
    words = conf(tmp_path, "server { listen 127.0.0.1:81; api; }")
    monkeypatch.setattr(find, "_masters", lambda: iter([(1, words, "/"), (2, words, "/")]))
    assert find.Found("http://127.0.0.1:81/api", False) == find.find([])


@pytest.mark.parametrize(
    ("users", "found"),
    [((0, 7, 9, 7), [1, 2, 4]), ((9, 7, 8), [2]), ((0, 9), [1]), ((8, 9), [1, 2])],
)
def test_who_takes_a_master_s_title_stands_in_nobody_s_way(
    users: tuple[int, ...], found: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither beside root's master nor beside one's own."""
    running = [(user, pid, ["-c", "x"], "/") for pid, user in enumerate(users, 1)]
    monkeypatch.setattr(find, "_running", lambda: iter(running))
    monkeypatch.setattr(os, "geteuid", lambda: 7)
    assert [(pid, ["-c", "x"], "/") for pid in found] == find._masters()


def test_where_no_master_runs_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration that is looked at is the default one then."""
    monkeypatch.setattr(find, "_masters", lambda: iter(()))
    with pytest.raises(CtlError, match="no master process runs here, and "):
        find.find([])


def test_a_configuration_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    """By its name and the system's reason."""
    with pytest.raises(CtlError, match=r"none\.conf.*No such file"):
        find.find(["-c", str(tmp_path / "none.conf")])
