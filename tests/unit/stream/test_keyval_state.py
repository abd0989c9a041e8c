"""The file of a keyval_zone: read, refused, written, by whom and when."""

import errno
import json
import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from ngxstream.core import errors
from ngxstream.core.shm_keyval import NEVER_MS
from ngxstream.stream import keyval_state as state
from tests.support.clients import tcp_exchange
from tests.support.in_process import InProcess, build
from tests.support.keyvals import Api


def text_of(path: Path, words: str = "timeout=1h", size: str = "32k") -> str:
    """Return a configuration whose zone has a file."""
    return f"""stream {{
        keyval_zone zone=z:{size} state={path} {words};
        server {{ listen 127.0.0.1:@a@; return 1; }}
    }}"""


def loaded(path: Path, words: str = "timeout=1h", size: str = "32k") -> dict[str, str]:
    """Return the pairs that a new start finds."""
    built = build(text_of(path, words, size).replace("@a@", "9"))
    assert built.conf is not None, built.error
    built.zones.build()
    pairs: dict[str, str] = Api(built.conf).ask("GET", "z")[1]
    built.zones.close()
    return pairs


def refused(path: Path, words: str = "timeout=1h") -> str:
    """Return what is said of a file that cannot be used."""
    built = build(text_of(path, words).replace("@a@", "9"))
    with pytest.raises(errors.ConfError) as info:
        built.zones.build()
    built.zones.close()
    return str(info.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give the path of a file that is not there."""
    return tmp_path / "z.json"


class Served(InProcess):
    """A configuration with its worker's own work."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.conf.start_worker(self.loop)
        self.api = Api(self.conf, self.loop)
        self.zone = self.conf.data["keyval"]["z"]

    def __exit__(self, *exc: object) -> None:
        self.conf.stop_worker(self.loop)
        super().__exit__(*exc)

    def until_saved(self) -> None:
        """Turn the loop until the file is up to date."""
        store = self.zone.store
        self.turn_until(lambda: store.saved == store.version, "the file is written")

    def until_told(self) -> list[str]:
        """Turn the loop until the file could not be written; return what is said of that."""
        said: list[str] = []

        def is_told() -> bool:
            said[:] = [text for level, text in self.target.lines if level == "crit"]
            return bool(said)

        self.turn_until(is_told, "it is told")
        return said


# -- reading ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["", " \n", "{}", "{\n}\n"])
def test_an_empty_file_is_an_empty_zone(path: Path, content: str) -> None:
    """So is one that is not there."""
    assert {} == loaded(path)
    path.write_text(content)
    assert {} == loaded(path)


def test_a_file_is_read(path: Path) -> None:
    """Pairs with a time and without; what has expired is left out."""
    later = int(time.time() * 1000) + 60_000
    path.write_text(json.dumps({
        "k": "v", "ü": "ö\n", "timed": {"value": "t", "expires": later},
        "gone": {"value": "g", "expires": 5},
    }))
    assert {"k": "v", "ü": "ö\n", "timed": "t"} == loaded(path)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{\n\"k\": \"v\",\n\"l\" \"w\"}", "line 3: Expecting ':' delimiter"),
        ("{", "line 1: Expecting property name enclosed in double quotes"),
        ("[" * 100_000, "nested too deep"),
        ("[]", "no object"),
        ('{"k": 1}', 'invalid value of key "k"'),
        ('{"k": null}', 'invalid value of key "k"'),
        ('{"k": {"value": "v"}}', 'invalid value of key "k"'),
        ('{"k": {"value": "v", "expires": "x"}}', 'invalid time of key "k"'),
        ('{"k": {"value": "v", "expires": 1e400}}', 'invalid time of key "k"'),
        ('{"k": {"value": "v", "expires": true}}', 'invalid time of key "k"'),
        ('{"k": {"value": "v", "expires": -1}}', 'invalid time of key "k"'),
        ('{"k": {"value": "v", "expires": 1152921504606846976}}', 'invalid time of key "k"'),
        ('{"": "v"}', 'invalid key ""'),
        ('{"k": "v", "k": "w"}', 'duplicate key "k"'),
        ('{"k\\n": 1}', 'invalid value of key "k\\n"'),
        (json.dumps({"k": "v" * 65536}), 'value of key "k" is too long'),
        (json.dumps({str(n): "v" * 60_000 for n in range(3)}),
         'there is no room in zone "z" for all of it'),
    ],
)
def test_a_broken_file_is_refused(path: Path, content: str, why: str) -> None:
    """With the file, the reason, and the place of the directive."""
    path.write_text(content)
    assert f'invalid state file "{path}": {why} in /p/conf/nginx.conf:2' == refused(path)


def test_what_is_no_text_is_refused(path: Path) -> None:
    """Bytes that are not UTF-8, half of a surrogate pair, keys that are no network."""
    path.write_bytes(b'{"k": "\xff"}')
    assert "invalid state file" in refused(path)
    path.write_text('{"k": "\\ud800"}')
    assert "invalid state file" in refused(path)
    path.write_text('{"k": "v"}')
    assert 'invalid key "k"' in refused(path, "type=ip")
    path.write_text('{"10.0.0.1": "v", "10.0.0.1/32": "w"}')
    assert 'duplicate key "10.0.0.1/32"' in refused(path, "type=ip")


def test_a_file_that_cannot_be_read_is_refused(path: Path) -> None:
    """In the words of the system."""
    path.mkdir()
    assert (f'cannot read state file "{path}" (22: Invalid argument) in /p/conf/nginx.conf:2'
            == refused(path))


@pytest.mark.parametrize("what", ["fifo", "device", "folder"])
def test_what_is_no_file_is_refused_at_once(path: Path, what: str) -> None:
    """Who may write in the folder cannot have the master wait, or read without end."""
    if what == "fifo":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    said = refused(path)
    reason = "22: Invalid argument"
    assert said.startswith(f'cannot read state file "{path}" ({reason})')


def test_only_who_starts_the_program_makes_a_link(path: Path, tmp_path: Path) -> None:
    """The master, which may be root, does not show what a worker's user may not read."""
    secret = tmp_path / "secret.json"
    secret.write_text('{"password": "x"}')
    path.symlink_to(secret)
    assert {"password": "x"} == loaded(path)
    if os.geteuid() == 0:
        os.lchown(path, 65534, 65534)
        assert "(40: Too many levels of symbolic links)" in refused(path)


def test_a_file_has_a_limit(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the size of its zone."""
    monkeypatch.setattr(state, "LEAST", 0)
    path.write_text("{" + " " * state.TIMES * (32 << 10))
    assert "(27: File too large)" in refused(path)


def test_a_reload_that_keeps_the_zone_reads_nothing(path: Path) -> None:
    """What is in memory is newer, and a file that was broken since breaks nothing."""
    text = text_of(path).replace("@a@", "9")
    old, new = build(text), build(text)
    assert old.conf is not None
    assert new.conf is not None
    old.zones.build()
    assert (201, None) == Api(old.conf).ask("POST", "z", {"k": "v"})
    path.write_text("broken")
    new.zones.build(old.zones)
    assert (200, {"k": "v"}) == Api(new.conf).ask("GET", "z")
    new.zones.close()


# -- writing ---------------------------------------------------------------------------------------


def test_what_was_changed_is_there_after_a_restart(path: Path) -> None:
    """Pairs of all kinds, with their times."""
    pairs = {"k": "v", 'quote"\\': "line\nend", "ü": "\u2028", "empty": ""}
    with Served(text_of(path)) as served:
        for key, value in pairs.items():
            assert (201, None) == served.api.ask("POST", "z", {key: value})
        served.until_saved()
        assert 1 + len(pairs) + 1 == len(path.read_text("utf-8").split("\n")) - 1
    assert pairs == loaded(path)
    ends = [one["expires"] for one in json.loads(path.read_text()).values()]
    assert all(3_500_000 < end - time.time() * 1000 <= 3_600_000 for end in ends)


def test_a_pair_without_a_time_has_none_in_the_file(path: Path) -> None:
    """A line for each pair."""
    with Served(text_of(path, "")) as served:
        assert (201, None) == served.api.ask("POST", "z", {"k": "v"})
        served.until_saved()
        assert '{\n"k": "v"\n}\n' == path.read_text()
        assert (204, None) == served.api.ask("DELETE", "z")
        served.until_saved()
        assert "{}\n" == path.read_text()


def test_a_large_zone_is_written_in_many_turns(path: Path) -> None:
    """What comes meanwhile is written too."""
    with Served(text_of(path, "", "512k")) as served:
        store = served.zone.store
        for number in range(1000):
            store.add(b"%d" % number, b"v", NEVER_MS, 0)
        assert (201, None) == served.api.ask("POST", "z", {"k": "v"})
        served.turn_until(lambda: served.zone.saver._writing is not None, "it has begun")
        assert not path.exists()
        assert (201, None) == served.api.ask("POST", "z", {"meanwhile": "w"})
        served.loop.turn(wait_ms=0)
        assert served.zone.saver._writing is not None
        served.until_saved()
    pairs = loaded(path, size="512k")
    assert (1002, "v", "w") == (len(pairs), pairs["k"], pairs["meanwhile"])


def test_a_worker_that_leaves_writes_at_once(path: Path) -> None:
    """Whether it has begun or not, and the half of a file is not left."""
    with Served(text_of(path, "")) as served:
        assert (201, None) == served.api.ask("POST", "z", {"k": "v"})
        served.conf.stop_worker(served.loop)
        assert {"k": "v"} == loaded(path)
        for number in range(200):
            served.zone.store.add(b"%d" % number, b"v", NEVER_MS, 0)
        served.zone.changed()
        served.turn_until(lambda: served.zone.saver._writing is not None, "it has begun")
        served.conf.stop_worker(served.loop)
        assert 201 == len(loaded(path))
        before = path.stat().st_mtime_ns
        served.conf.stop_worker(served.loop)
        assert before == path.stat().st_mtime_ns
        assert [path.name] == os.listdir(path.parent)


def test_a_worker_that_begins_writes_what_another_left(path: Path) -> None:
    """A worker that was killed has not written what it changed."""
    with Served(text_of(path, "")) as served:
        served.zone.store.add(b"k", b"v", NEVER_MS, 0)
        served.conf.start_worker(served.loop)
        served.until_saved()
    assert {"k": "v"} == loaded(path)


def test_mode_and_owner_stay(path: Path) -> None:
    """A new file is for its owner alone."""
    with Served(text_of(path, "")) as served:
        assert (201, None) == served.api.ask("POST", "z", {"k": "v"})
        served.until_saved()
        assert 0o600 == stat.S_IMODE(path.stat().st_mode)
        path.chmod(0o640)
        assert (204, None) == served.api.ask("DELETE", "z")
        served.until_saved()
        assert 0o640 == stat.S_IMODE(path.stat().st_mode)


def test_a_link_stays(path: Path, tmp_path: Path) -> None:
    """The file that it leads to is replaced."""
    (tmp_path / "there").mkdir()
    real = tmp_path / "there" / "real.json"
    real.write_text("{}")
    path.symlink_to(real)
    with Served(text_of(path, "")) as served:
        assert (201, None) == served.api.ask("POST", "z", {"k": "v"})
        served.until_saved()
    assert path.is_symlink()
    assert {"k": "v"} == json.loads(real.read_text())


def test_what_cannot_be_written_is_told_and_tried_at_the_next_change(path: Path) -> None:
    """Once for each change; the zone goes on."""
    folder = path.parent / "sub"
    with Served(text_of(folder / "z.json", "")) as served:
        assert (201, None) == served.api.ask("POST", "z", {"k": "v"})
        said = served.until_told()
        expected = f'state file "{folder}/z.json" could not be written'
        assert [f"{expected} (2: No such file or directory)"] == said
        served.zone.changed()
        assert served.zone.saver._timer is None, "it is not tried again and again"
        folder.mkdir()
        assert (201, None) == served.api.ask("POST", "z", {"l": "w"})
        served.until_saved()
        assert {"k": "v", "l": "w"} == loaded(folder / "z.json")


def test_what_could_not_be_written_is_written_by_who_leaves_or_comes(path: Path) -> None:
    """A disk that was full for a moment costs no change."""
    folder = path.parent / "sub"
    for last in (True, False):
        with Served(text_of(folder / "z.json", "")) as served:
            assert (201, None) == served.api.ask("POST", "z", {"k": "v"})
            served.until_told()
            folder.mkdir()
            if last:
                served.conf.stop_worker(served.loop)
            else:
                served.zone.saver = None
                served.conf.start_worker(served.loop)
                served.until_saved()
        assert {"k": "v"} == loaded(folder / "z.json")
        (folder / "z.json").unlink()
        folder.rmdir()


def test_what_lies_beside_it_is_left_alone(path: Path) -> None:
    """Files of others, whatever their names, are not written to."""
    with Served(text_of(path, "")) as served:
        beside = path.with_name(f"{path.name}.{served.loop.pid}")
        beside.write_text("other")
        assert (201, None) == served.api.ask("POST", "z", {"k": "v"})
        served.until_saved()
        assert "other" == beside.read_text()
    assert {"k": "v"} == loaded(path)
    assert {path, beside} == set(path.parent.iterdir())
def test_what_the_disk_does_not_take_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file there was stays, and the next change tries again."""

    def refuse(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with Served(text_of(path, "")) as served:
        assert (201, None) == served.api.ask("POST", "z", {"k": "v"})
        served.until_saved()
        with monkeypatch.context() as patched:
            patched.setattr(state.os, "fsync", refuse)
            assert (201, None) == served.api.ask("POST", "z", {"l": "w"})
            said = served.until_told()
        assert [f'state file "{path}" could not be written (5: Input/output error)'] == said
        assert {"k": "v"} == loaded(path)
        assert [path.name] == os.listdir(path.parent)
        assert (201, None) == served.api.ask("POST", "z", {"m": "x"})
        served.until_saved()
        assert {"k", "l", "m"} == loaded(path).keys()


def test_of_two_workers_the_later_one_s_file_stays(path: Path) -> None:
    """Who began with older pairs does not put them over newer ones."""
    with Served(text_of(path, "")) as served:
        store = served.zone.store
        store.add(b"old", b"v", NEVER_MS, 0)
        slow = state.Saver(served.loop, served.zone)._guarded()
        assert next(slow) is None
        store.add(b"new", b"v", NEVER_MS, 0)
        other: Any = state.Saver(served.loop, served.zone)
        other.loop = type("L", (), {"pid": "other", "now_ms": 0, "log": served.log})
        other.finish()
        for sync in slow:
            if sync is not None:
                sync()
    assert {"old", "new"} == loaded(path).keys()


# -- a whole program -------------------------------------------------------------------------------


def test_a_program_goes_on_with_its_file(ngxstream, path: Path) -> None:
    """It is read at a start alone; -t says what is broken, and changes nothing."""
    path.write_text('{"k": "first"}')
    program = ngxstream(f"""events {{}} stream {{
        keyval_zone zone=z:32k state={path}; keyval k $v zone=z;
        server {{ listen 127.0.0.1:@a@; return "[$v]"; }}
    }}""")
    assert b"[first]" == tcp_exchange(program.address("a"), b"")
    path.write_text('{"k": "second"}')
    assert 0 == program.test().code
    program.reload()
    assert b"[first]" == tcp_exchange(program.address("a"), b"")
    program.stop()
    program.start()
    assert b"[second]" == tcp_exchange(program.address("a"), b"")
    path.write_text("broken")
    verdict = program.test()
    assert f'invalid state file "{path}": line 1: Expecting value in ' in verdict.stderr
    assert "broken" == path.read_text()
    path.write_text("{}")
