"""server_name: what it takes, what it warns of, which server a name selects."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.event import turn_budget
from ngxstream.stream import servers
from tests.support import in_process
from tests.support.sessions import FakeSession


def block(*servers_: str) -> in_process.Built:
    """Build a stream block of servers that listen at one address and return their own text."""
    inner = "\n".join(f"server {{ listen 127.0.0.1:9; {text} }}" for text in servers_)
    return in_process.build(f"stream {{ {inner} }}")


def selected(built: in_process.Built, name: bytes) -> tuple[str, FakeSession]:
    """Return what the server for a name would return, and the session it was selected for."""
    assert built.conf is not None, built.error
    address = built.conf.listenings[0].default
    s = FakeSession(server=address.default_server, address=address)
    servers.select(s, name)  # type: ignore[arg-type]
    return s.server.return_.text.text, s


ALL_KINDS = (
    "return default;",
    "server_name example.com; return exact;",
    "server_name *.example.com; return front;",
    "server_name .example.org; return dotted;",
    "server_name www.*; return behind;",
    r"server_name ~^(?<user>[a-z]+)\.users$ ~^other; return regex;",
    r"server_name ~^UPPER; return caseless;",
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"example.com", "exact"),
        (b"EXAMPLE.com", "exact"),
        (b"example.com.", "exact"),
        (b"example.com:443", "exact"),
        (b"a.example.com", "front"),
        (b"www.example.com", "front"),
        (b"example.org", "dotted"),
        (b"a.example.org", "dotted"),
        (b"www.test", "behind"),
        (b"joe.users", "regex"),
        (b"other", "regex"),
        (b"upper.case", "caseless"),
        (b"nobody", "default"),
        (b"", "default"),
        (b"exa mple.com", "default"),
        (b"example..com", "default"),
        (b"example.com/", "default"),
        (b"[::1]", "default"),
    ],
)
def test_a_name_selects_a_server(name: bytes, expected: str) -> None:
    """Exact, wildcard in front, wildcard behind, regex; else the default server stays."""
    assert expected == selected(block(*ALL_KINDS), name)[0]


def test_a_regex_leaves_captures() -> None:
    """What a server_name captured is there for the session."""
    built = block(*ALL_KINDS)
    assert built.conf is not None
    _, s = selected(built, b"joe.users")
    assert (b"joe.users", b"joe") == s.captures
    assert b"joe" == built.conf.variables.refs["user"].get(s)  # type: ignore[arg-type]


def test_default_server_is_the_one_that_says_so() -> None:
    """`default_server` goes before the order of the file."""
    built = in_process.build(
        """stream { server { listen 127.0.0.1:9; return one; }
        server { listen 127.0.0.1:9 default_server; server_name two; return two; } }"""
    )
    assert "two" == selected(built, b"unknown")[0]


def test_one_server_needs_no_table() -> None:
    """With a single server a name makes no difference, unless a regex captures from it."""
    for names, wanted in (("a b", False), ("~a", False), ("~(a)", True), ("~(a) ~b", False)):
        built = block(f"server_name {names}; return x;")
        assert built.conf is not None, built.error
        assert wanted == (built.conf.listenings[0].default.names is not None)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("", ""),
        ("Example.COM b", "example.com"),
        (".example.com", "example.com"),
        ("*.example.com", "*.example.com"),
        ("~^A(b)", "~^A(b)"),
        ("$Hostname", socket.gethostname().lower()),
        ('""', ""),
    ],
)
def test_first_name_is_the_variable(names: str, expected: str) -> None:
    """$server_name is the first name, lower-cased, a regex with its tilde."""
    built = block(f"server_name {names}; return x;" if names else "return x;")
    assert built.conf is not None, built.error
    assert expected == built.conf.servers[0].server_name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("server_name *;", 'server name "*" is invalid in FILE:1'),
        ("server_name *x.com;", 'server name "*x.com" is invalid in FILE:1'),
        ("server_name *.;", 'server name "*." is invalid in FILE:1'),
        ("server_name .;", 'server name "." is invalid in FILE:1'),
        ("server_name ~;", 'empty regex in server name "~" in FILE:1'),
        ("server_name;", 'invalid number of arguments in "server_name" directive in FILE:1'),
    ],
)
def test_odd_names_are_refused(text: str, expected: str) -> None:
    """The messages are nginx's."""
    assert expected.replace("FILE", in_process.CONF) == block(f"{text} return x;").error


def test_a_bad_regex_is_refused() -> None:
    """The message is PCRE's, as nginx prints it."""
    assert block("server_name ~(; return x;").error.startswith("pcre2_compile() failed: ")


def test_a_wildcard_in_the_middle_is_found_when_names_are_compared() -> None:
    """Only where several servers share the address, and without a place, as in nginx."""
    assert "" == block("server_name a.*.b; return x;").error
    both = block("server_name a.*.b; return x;", "return y;")
    assert 'invalid server name or wildcard "a.*.b" on 127.0.0.1:9' == both.error


def test_conflicting_names_are_warned_of() -> None:
    """The first server keeps the name."""
    built = block("server_name a b; return one;", "server_name b c; return two;")
    assert [
        '[warn] conflicting server name "b" on 127.0.0.1:9, ignored'
    ] == built.warnings
    assert "one" == selected(built, b"b")[0]
    assert "two" == selected(built, b"c")[0]


def test_nameless_servers_conflict() -> None:
    """Two servers without names at one address: the first wins and nginx warns."""
    built = block("return one;", "return two;")
    assert ['[warn] conflicting server name "" on 127.0.0.1:9, ignored'] == built.warnings


def test_a_slash_is_suspicious() -> None:
    """A warning with the place."""
    built = block("server_name a/b; return one;")
    expected = f'[warn] server name "a/b" has suspicious symbols in {in_process.CONF}:1'
    assert [expected] == built.warnings


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"a", b"a"),
        (b"A.B", b"a.b"),
        (b"a.", b"a"),
        (b".", None),
        (b"", None),
        (b"a:1", b"a"),
        (b"a.:1", b"a"),
        (b"a:", b"a"),
        (b"a:65535", b"a"),
        (b"a:65536", None),
        (b"a:x", None),
        (b":1", None),
        (b"a..b", None),
        (b"[::1]", b"[::1]"),
        (b"[::1]:443", b"[::1]"),
        (b"[::1", None),
        (b"[::1]x", None),
        (b"a b", None),
        (b"a\0", None),
        (b"\xff", None),
        (b"a/b", None),
        (b"a_b-c~d%20!$&'()*+,;=", b"a_b-c~d%20!$&'()*+,;="),
    ],
)
def test_a_host_is_validated(name: bytes, expected: bytes | None) -> None:
    """What a client sends is a host only in the characters of one."""
    assert expected == servers.valid_host(name)


@given(st.binary(max_size=40))
def test_a_valid_host_is_clean(name: bytes) -> None:
    """Whatever is sent, a valid host is lower case, of printable ASCII, and valid again."""
    host = servers.valid_host(name)
    if host is not None:
        assert host == host.lower()
        assert all(0x21 <= byte < 0x7F and byte != ord("/") for byte in host)
        assert servers.valid_host(host) in (host, host.removesuffix(b".") or None)


@pytest.mark.parametrize(("size", "is_host"), [(255, True), (256, False)])
def test_a_host_has_255_bytes_at_most(size: int, is_host: bool) -> None:
    """No name of DNS is longer."""
    assert is_host == (servers.valid_host(b"a" * size) is not None)


def test_a_name_that_takes_too_long_is_looked_up_no_further() -> None:
    """The default server has it, as if no name fitted; the log has nginx's words."""
    built = block(
        "return default;",
        "server_name ~^(a|aa|.a|..a)+$ ~^(aaa|a|.a|..a)+$; return slow;",
        "server_name ~!$; return later;",
    )
    name = b"a" * 200 + b"!"
    text, s = selected(built, name)
    assert "later" == text
    s.loop.get(turn_budget.TurnBudget).has_share(s)
    s.loop.get(turn_budget.TurnBudget).charge(turn_budget.OWNER_NS)
    servers.select(s, name)  # type: ignore[arg-type]
    s.server = s.address.default_server
    servers.select(s, name)  # type: ignore[arg-type]
    assert "default" == s.server.return_.text.text
    assert ["error"] * 2 == [level for level, _ in s.target.lines]


# -- what a name comes too late for ----------------------------------------------------------------

SET, DENY = "set $v x;", "deny 10.0.0.0/8;"
ZONE = "limit_conn_zone $remote_addr zone=z:1m;"
FIRST = "server {{ listen 127.0.0.1:9; ssl_preread on; {} return default; }}"
NAMED = "server {{ listen 127.0.0.1:9; server_name b.test; {} return named; }}"


def early(first: str, named: str, outer: str = "") -> list[str]:
    """Return the warnings of a default server and one that is selected by name."""
    text = f"stream {{ {outer} {FIRST.format(first)} {NAMED.format(named)} }}"
    return in_process.build(text).warnings


@pytest.mark.parametrize(
    ("statement", "fate"),
    [
        (SET, "has no effect, it is looked at before the name is known"),
        ("limit_conn z 1;", "has no effect, it is looked at before the name is known"),
        ("set_real_ip_from 10.0.0.0/8;", "has no effect, it is looked at before the name is known"),
        (DENY, "is obeyed after the rules of the default server, nginx ignores it"),
        ("allow all;", "is obeyed after the rules of the default server, nginx ignores it"),
    ],
)
def test_what_comes_before_the_name_is_known_is_warned_of(statement: str, fate: str) -> None:
    """The warning names the directive, its place and the server."""
    place = f"{in_process.CONF}:1"
    expected = (
        f'[warn] "{statement.split(maxsplit=1)[0]}" of the server "b.test" in {place}, '
        f"which is selected by name, {fate} in {place}"
    )
    assert [expected] == early("", statement, ZONE)


@pytest.mark.parametrize(
    ("first", "named", "outer"),
    [
        (SET, SET, ""),
        (DENY, DENY, ""),
        ("", "", DENY),
        ("limit_conn z 1;", "limit_conn z 1;", ZONE),
        (DENY, "", ""),
    ],
)
def test_what_the_default_server_says_too_is_not_warned_of(
    first: str, named: str, outer: str
) -> None:
    """Where both servers do the same it makes no difference which one is asked."""
    assert [] == early(first, named, outer)


def test_rules_of_the_block_are_warned_of_where_the_default_server_has_its_own() -> None:
    """A server that inherits others than the default server has is one that differs."""
    assert 1 == len(early("allow all;", "", DENY))


@pytest.mark.parametrize(
    "text",
    [
        f"{NAMED.format(SET)}",
        f"server {{ listen 127.0.0.1:9; return x; }} {NAMED.format(SET)}",
        f"{FIRST.format('')} server {{ listen 127.0.0.1:8; server_name b.test; {SET} return x; }}",
        f"{FIRST.format(SET)} {NAMED.format('')}",
        f"{FIRST.format('')} {NAMED.format(SET)}".replace("ssl_preread on;", ""),
        f"{FIRST.format('')} {NAMED.format(SET)}".replace("server_name b.test;", 'server_name "";'),
    ],
)
def test_servers_that_no_name_selects_are_not_warned_of(text: str) -> None:
    """No one but a server that shares an address with a default one and is selected there."""
    warnings = in_process.build(f"stream {{ {text} }}").warnings
    assert [] == [line for line in warnings if "selected by name" in line]


def test_servers_of_udp_addresses_are_warned_of() -> None:
    """QUIC clients select one by name as well."""
    text = f"{FIRST.format('')} {NAMED.format(SET)}".replace(":9;", ":9 udp;")
    assert 1 == len(in_process.build(f"stream {{ {text} }}").warnings)


def test_a_server_is_warned_of_once() -> None:
    """However many addresses it has."""
    more = "server { listen 127.0.0.1:8; ssl_preread on; return x; }"
    named = NAMED.format(f"listen 127.0.0.1:8; {SET}")
    assert 1 == len(in_process.build(f"stream {{ {FIRST.format('')} {more} {named} }}").warnings)


@pytest.mark.parametrize(
    ("name", "expected"),
    [(b"a:00080", b"a"), (b"a:000080", None), (b"a:65535", b"a"), (b"a:65536", None)],
)
def test_a_port_behind_a_host_has_no_more_than_five_digits(
    name: bytes, expected: bytes | None
) -> None:
    """However small its number is."""
    assert expected == servers.valid_host(name)
