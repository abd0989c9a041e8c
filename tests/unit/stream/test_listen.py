"""The parameters of `listen`, in nginx's words."""

import re
import socket
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.core import errors
from ngxstream.stream import listen
from tests.support import tools


class Scope:
    """What listen.parse() wants of a scope: somebody to warn."""

    def __init__(self) -> None:
        self.warned: list[tuple[str, str]] = []

    def warn(self, message: str, level: str = "warn") -> None:
        """Keep the warning."""
        self.warned.append((level, message))


def parse(text: str) -> list[listen.ListenOptions]:
    """Parse the words after `listen`."""
    return listen.parse(text.split(" "), Scope())


def complaint(text: str) -> str:
    """Return what is said of the words after `listen`; empty if nothing."""
    try:
        parse(text)
    except errors.ConfError as error:
        return error.message
    return ""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("53", ["0.0.0.0:53"]),
        ("*:53", ["0.0.0.0:53"]),
        ("[::]:53", ["[::]:53"]),
        ("[::1]:53", ["[::1]:53"]),
        ("127.0.0.1:53", ["127.0.0.1:53"]),
        ("127.0.0.1", ["127.0.0.1:0"]),
        ("5000-5002", ["0.0.0.0:5000", "0.0.0.0:5001", "0.0.0.0:5002"]),
        ("127.0.0.1:5000-5001", ["127.0.0.1:5000", "127.0.0.1:5001"]),
        ("unix:/run/x.sock", ["unix:/run/x.sock"]),
    ],
)
def test_every_address_gets_its_options(text: str, shown: list[str]) -> None:
    """Each address of a range is one of its own, named as nginx names it."""
    assert shown == [options.text for options in parse(text)]


def test_defaults_are_those_of_nginx() -> None:
    """A bare address is TCP, backlog 511, nothing set, no socket of its own asked for."""
    (options,) = parse("127.0.0.1:53")
    assert (socket.SOCK_STREAM, 511) == (options.socktype, options.backlog)
    assert [False] * 4 == [options.set, options.bind, options.wildcard, options.is_group]
    assert (None, None, None, None) == (
        options.rcvbuf,
        options.sndbuf,
        options.fastopen,
        options.keepalive,
    )


@pytest.mark.parametrize(
    ("word", "field", "value", "bind"),
    [
        ("default_server", "default_server", True, False),
        ("udp", "socktype", socket.SOCK_DGRAM, False),
        ("ssl", "ssl", True, False),
        ("proxy_protocol", "proxy_protocol", True, False),
        ("bind", "bind", True, True),
        ("deferred", "deferred", True, True),
        ("reuseport", "reuseport", True, True),
        ("multipath", "multipath", True, True),
        ("backlog=7", "backlog", 7, True),
        ("backlog=9999999999", "backlog", 9999999999 % 2**32, True),
        ("backlog=2147483648", "backlog", 2**31 - 1, True),
        ("rcvbuf=64k", "rcvbuf", 65536, True),
        ("sndbuf=1m", "sndbuf", 1 << 20, True),
        ("fastopen=0", "fastopen", 0, True),
        ("fastopen=5", "fastopen", 5, True),
        ("ipv6only=on", "ipv6only", True, True),
        ("ipv6only=off", "ipv6only", False, True),
        ("so_keepalive=on", "keepalive", "on", True),
        ("so_keepalive=off", "keepalive", "off", True),
        ("so_keepalive=30m::10", "keepalive", (1800, 0, 10), True),
        ("so_keepalive=:5", "keepalive", (0, 5, 0), True),
        ("so_keepalive=::3", "keepalive", (0, 0, 3), True),
        ("so_keepalive=1:2:3 so_keepalive=::0", "keepalive", (1, 2, 0), True),
        ("so_keepalive=1:2:3 so_keepalive=on", "keepalive", (1, 2, 3), True),
        ("so_keepalive=1:2:3 so_keepalive=off", "keepalive", "off", True),
    ],
)
def test_a_parameter_sets_its_field(word: str, field: str, value: object, bind: bool) -> None:
    """Each parameter says one thing; some also ask for a socket of the address's own."""
    (options,) = parse(f"127.0.0.1:53 {word}")
    assert value == getattr(options, field)
    assert (bind, bind) == (options.set, options.bind)


CLASHES = {
    "fastopen": "fastopen=5",
    "backlog": "backlog=5",
    "deferred": "deferred",
    "multipath": "multipath",
    "ssl": "ssl",
    "so_keepalive": "so_keepalive=off",
}


@pytest.mark.parametrize("first", range(len(CLASHES)))
def test_udp_clashes_are_found_in_nginx_order(first: int) -> None:
    """Of several parameters UDP cannot have, the first of nginx's list is named."""
    names = list(CLASHES)
    words = " ".join(reversed([CLASHES[name] for name in names[first:]]))
    assert f'"listen" directive "{names[first]}" parameter is incompatible with "udp"' == complaint(
        f"53 {words} udp"
    )


def test_a_filter_of_another_system_is_passed_over_loudly() -> None:
    """accept_filter is an [emerg] line that names the parameter, and no error."""
    scope = Scope()
    listen.parse(["53", "accept_filter=dataready"], scope)
    text = 'accept filters "accept_filter=dataready" are not supported on this platform, ignored'
    assert [("emerg", text)] == scope.warned


# what nginx 1.22 knows already, so that it can be asked
COMPLAINTS = {
    "53 nonsense": 'invalid parameter "nonsense"',
    "53 setfib=1": 'invalid parameter "setfib=1"',
    "53 udp=1": 'invalid parameter "udp=1"',
    "53 backlog": 'invalid parameter "backlog"',
    "53 backlog=": 'invalid backlog "backlog="',
    "53 backlog=0": 'invalid backlog "backlog=0"',
    "53 backlog=-1": 'invalid backlog "backlog=-1"',
    "53 rcvbuf=": 'invalid rcvbuf "rcvbuf="',
    "53 rcvbuf=1g": 'invalid rcvbuf "rcvbuf=1g"',
    "53 sndbuf=x": 'invalid sndbuf "sndbuf=x"',
    "53 fastopen=x": 'invalid fastopen "fastopen=x"',
    "53 fastopen=": 'invalid fastopen "fastopen="',
    "53 ipv6only=1": 'invalid parameter "ipv6only=1"',
    "53 ipv6only=": 'invalid parameter "ipv6only="',
    "53 ipv6only=o": 'invalid ipv6only flags "o"',
    "53 ipv6only=offf": 'invalid ipv6only flags "offf"',
    "53 so_keepalive=": 'invalid so_keepalive value: ""',
    "53 so_keepalive=::": 'invalid so_keepalive value: "::"',
    "53 so_keepalive=0:0:0": 'invalid so_keepalive value: "0:0:0"',
    "53 so_keepalive=1:2:3:4": 'invalid so_keepalive value: "1:2:3:4"',
    "53 so_keepalive=1ms": 'invalid so_keepalive value: "1ms"',
    "53 so_keepalive=x": 'invalid so_keepalive value: "x"',
    "53 udp backlog=5": '"listen" directive "backlog" parameter is incompatible with "udp"',
    "53 ssl udp": '"listen" directive "ssl" parameter is incompatible with "udp"',
    "53 udp so_keepalive=on": '"listen" directive "so_keepalive" parameter is incompatible '
    'with "udp"',
    "53 proxy_protocol=first": 'invalid parameter "proxy_protocol=first"',
    "53 udp proxy_protocol=": 'invalid parameter "proxy_protocol="',
    "0": 'invalid port in "0" of the "listen" directive',
    "70000": 'invalid port in "70000" of the "listen" directive',
    "127.0.0.1:x": 'invalid port in "127.0.0.1:x" of the "listen" directive',
    "127.0.0.1:20-10": 'invalid port range in "127.0.0.1:20-10" of the "listen" directive',
    "127.0.0.1:20-x": 'invalid port in "127.0.0.1:20-x" of the "listen" directive',
    ":53": 'no host in ":53" of the "listen" directive',
    "[::1": 'invalid host in "[::1" of the "listen" directive',
    "[::g]:53": 'invalid IPv6 address in "[::g]:53" of the "listen" directive',
    "unix:": 'no path in the unix domain socket in "unix:" of the "listen" directive',
    "a/b": 'invalid host in "a/b" of the "listen" directive',
    "53 backlog=4294967296": 'invalid backlog "backlog=4294967296"',
    "53 backlog=4294967295": 'invalid backlog "backlog=4294967295"',
    "53 fastopen=4294967295": 'invalid fastopen "fastopen=4294967295"',
    "53 rcvbuf=4294967295": 'invalid rcvbuf "rcvbuf=4294967295"',
    "53 sndbuf=9223372036854775807": 'invalid sndbuf "sndbuf=9223372036854775807"',
    "53 so_keepalive=4294967296::": 'invalid so_keepalive value: "4294967296::"',
    "53 so_keepalive=1:2:3 so_keepalive=::0": "",
    "53 backlog=2147483648": "",
    "53 so_keepalive=1m:5:3": "",
    "53 udp reuseport rcvbuf=1k": "",
    "53 backlog=5 backlog=6": "",
}


@pytest.mark.parametrize("text", COMPLAINTS)
def test_a_wrong_word_has_its_message(text: str) -> None:
    """The message is the one of nginx's catalogue."""
    assert COMPLAINTS[text] == complaint(text)


@pytest.mark.parametrize("text", COMPLAINTS)
def test_nginx_says_the_same(text: str, tmp_path: Path) -> None:
    """Real nginx refuses and accepts the same words with the same message."""
    nginx = tools.require_nginx()
    module = tools.nginx_module(nginx, "stream")
    load = f"load_module {module};" if module else ""
    conf = tmp_path / "nginx.conf"
    # -t binds what is right: on a port of the kernel's choice
    words = text if COMPLAINTS[text] else text.replace("53", "127.0.0.1", 1)
    conf.write_text(
        f"{load} pid {tmp_path}/pid; error_log {tmp_path}/log; events {{}}\n"
        f"stream {{ server {{ listen {words}; return x; }} }}\n"
    )
    ran = subprocess.run(
        [nginx, "-t", "-c", str(conf), "-p", str(tmp_path), "-e", str(tmp_path / "log")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    # before 1.25 it was worded otherwise
    said = re.sub(r'the invalid ("\S*") parameter', r"invalid parameter \1", ran.stderr)
    if COMPLAINTS[text]:
        assert f"nginx: [emerg] {COMPLAINTS[text]} in {conf}:2" in said.splitlines()
    else:
        assert 0 == ran.returncode, ran.stderr


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters=" "), max_size=30)))
def test_any_words_are_parsed_or_refused(words: list[str]) -> None:
    """Whatever stands after the address, the answer is options or a ConfError."""
    refused = ""
    found = []
    try:
        found = listen.parse(["127.0.0.1:53", *words], Scope())
    except errors.ConfError as error:
        refused = error.message
    assert bool(refused) != (["127.0.0.1:53"] == [options.text for options in found])
