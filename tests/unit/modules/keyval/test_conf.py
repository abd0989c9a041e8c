"""keyval, keyval_zone: what they accept, and values of sessions."""

import pytest

from ngxstream.core import shm
from ngxstream.core.shm_keyval import NEVER_MS
from tests.support.in_process import InProcess, build
from tests.support.keyvals import Api

NO_SYNC = (
    '"sync" parameter of "keyval_zone" is not supported: '
    'hosts share pairs by a store, see "store="'
)
TAIL = "server { listen 127.0.0.1:9; return 1; }"


def error(text: str) -> str:
    """Return what is said of a stream block that begins with a text."""
    return build(f"stream {{ {text} {TAIL} }}").error


@pytest.mark.refusal("keyval_zone")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("zone=z:32k other", 'invalid parameter "other"'),
        ("zone=z:32k state=", 'invalid parameter "state="'),
        ("zone=z", 'invalid zone size "zone=z"'),
        ("zone=z:x", 'invalid zone size "zone=z:x"'),
        ("zone=z:31k", 'zone "zone=z:31k" is too small'),
        ("zone=:32k", '"keyval_zone" must have "zone" parameter'),
        ("timeout=1s", '"keyval_zone" must have "zone" parameter'),
        ("zone=z:32k timeout=0", 'invalid timeout "timeout=0"'),
        ("zone=z:32k timeout=x", 'invalid timeout "timeout=x"'),
        ("zone=z:32k type=regex", 'invalid type "type=regex"'),
        ("zone=z:32k timeout=1m sync", NO_SYNC),
        ("zone=z:32k; keyval_zone zone=z:32k", 'keyval_zone "z" is already declared'),
        ("zone=z:32k state=/s; keyval_zone zone=y:32k state=/s",
         'state file "/s" is used twice'),
        ("zone=z:32k state=/s; upstream u { zone u 64k; state /s; }",
         'state file "/s" is used twice'),
        ("zone=z:32k; limit_conn_zone $remote_addr zone=z:32k",
         'the shared memory zone "z" is already declared for a different use'),
    ],
)
def test_what_a_zone_cannot_be(words: str, expected: str) -> None:
    """Each is refused with its place."""
    assert f"{expected} in /p/conf/nginx.conf:1" == error(f"keyval_zone {words};")


@pytest.mark.refusal("keyval")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("$remote_addr v zone=z", 'invalid variable name "v"'),
        ("$remote_addr $v z", 'invalid parameter "z"'),
        ("$remote_addr $v zone=", 'invalid parameter "zone="'),
        ("$remote_addr $v zone=other", 'unknown keyval_zone "other"'),
        ("$remote_addr $remote_addr zone=z", 'the duplicate "remote_addr" variable'),
        ("${ $v zone=z", "invalid variable name"),
    ],
)
def test_what_a_variable_cannot_be(words: str, expected: str) -> None:
    """Each is refused with its place, an unknown zone when the block is read."""
    assert f"{expected} in /p/conf/nginx.conf:1" == error(
        f'keyval_zone zone=z:32k; keyval {words};'
    )


@pytest.mark.effect("keyval")
def test_a_variable_is_looked_up_in_the_zone() -> None:
    """Its key may be of text and variables; the zone may stand behind; no pair is no value."""
    conf = """stream {
        keyval "$remote_addr:$server_port" $v zone=z;
        map $v $shown { default "<$v>"; "" "none"; }
        keyval_zone zone=z:32k;
        server { listen 127.0.0.1:@a@; return $shown; }
    }"""
    with InProcess(conf) as served:
        api = Api(served.conf)
        assert b"none" == served.read(served.connect())
        assert (201, None) == api.ask("POST", "z", {f"127.0.0.1:{served.port('a')}": "found"})
        assert b"<found>" == served.read(served.connect())
        assert (204, None) == api.ask("DELETE", "z")
        assert b"none" == served.read(served.connect())


@pytest.mark.effect("keyval_zone")
@pytest.mark.parametrize(
    ("kind", "key", "subject", "found"),
    [
        ("string", "127.0.0.1", "$remote_addr", True),
        ("string", "127.0.0", "$remote_addr", False),
        ("ip", "127.0.0.0/8", "$remote_addr", True),
        ("ip", "127.0.0.2", "$remote_addr", False),
        ("ip", "127.0.0.1", "no address", False),
        ("prefix", "127.0.0", "$remote_addr", True),
        ("prefix", "127.0.0.1x", "$remote_addr", False),
    ],
)
def test_the_type_says_what_is_found(kind: str, key: str, subject: str, found: bool) -> None:
    """The very key, a network around it, or the beginning of it."""
    conf = f"""stream {{
        keyval_zone zone=z:32k type={kind};
        keyval "{subject}" $v zone=z;
        server {{ listen 127.0.0.1:@a@; return "[$v]"; }}
    }}"""
    with InProcess(conf) as served:
        assert (201, None) == Api(served.conf).ask("POST", "z", {key: "v"})
        assert (b"[v]" if found else b"[]") == served.read(served.connect())


def test_a_pair_that_has_expired_is_not_found() -> None:
    """By the loop's time."""
    conf = """stream { keyval_zone zone=z:32k timeout=1h; keyval k $v zone=z;
        server { listen 127.0.0.1:@a@; return "[$v]"; } }"""
    with InProcess(conf) as served:
        store = served.conf.data["keyval"]["z"].store
        store.add(b"k", b"past", served.loop.now_ms, served.loop.now_ms - 1)
        assert b"[]" == served.read(served.connect())
        assert (201, None) == Api(served.conf).ask("POST", "z", {"k": "v"})
        assert b"[v]" == served.read(served.connect())


def test_a_session_looks_once() -> None:
    """What it found stays while it lasts, as with a map; a redefinition by a map goes on."""
    conf = """stream { keyval_zone zone=z:32k; keyval k $v zone=z;
        server { listen 127.0.0.1:@a@; set $first $v; return "$first$v"; } }"""
    with InProcess(conf) as served:
        api = Api(served.conf)
        assert (201, None) == api.ask("POST", "z", {"k": "v"})
        looked = []
        store = served.conf.data["keyval"]["z"].store

        class Watched:
            def find(self, subject: bytes, now_ms: int) -> bytes | None:
                looked.append(subject)
                return store.find(subject, now_ms)

        served.conf.data["keyval"]["z"].store = Watched()
        assert b"vv" == served.read(served.connect())
        assert [b"k"] == looked


def test_damaged_memory_is_told_and_finds_nothing() -> None:
    """The session goes on."""
    conf = """stream { keyval_zone zone=z:32k; keyval k $v zone=z;
        server { listen 127.0.0.1:@a@; return "[$v]"; } }"""
    with InProcess(conf) as served:
        store = served.conf.data["keyval"]["z"].store
        store.add(b"k", b"v", NEVER_MS, 0)
        store.words[0] = 99
        assert b"[]" == served.read(served.connect())
        (said,) = [text for level, text in served.target.lines if level == "alert"]
        assert '*1 keyval_zone "z" is damaged: no log' in said


def zone_conf(words: str) -> str:
    """Return a configuration with one zone."""
    return f"stream {{ keyval_zone zone=z:{words}; {TAIL} }}"


@pytest.mark.parametrize(
    ("words", "kept"),
    [("32k", True), ("32k timeout=1m", True), ("64k", False), ("32k type=prefix", False)],
)
def test_pairs_are_kept_over_a_reload(words: str, kept: bool) -> None:
    """If name, size and type stay."""
    old, new = build(zone_conf("32k")), build(zone_conf(words))
    assert old.conf is not None
    assert new.conf is not None
    old.zones.build()
    assert (201, None) == Api(old.conf).ask("POST", "z", {"k": "v"})
    new.zones.build(old.zones)
    assert (200, {"k": "v"} if kept else {}) == Api(new.conf).ask("GET", "z")
    assert (200, {"k": "v"}) == Api(old.conf).ask("GET", "z")
    new.zones.close(keep=old.zones)
    old.zones.close()


def test_a_zone_needs_its_memory() -> None:
    """More than there is is refused in nginx's words, and with a zone of it nothing begins."""
    built = build(zone_conf("9000000000m"))
    assert built.conf is not None
    with pytest.raises(shm.errors.UnplacedError, match="mmap"):
        built.zones.build()
    built.zones.close()
