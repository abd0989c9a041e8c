"""health_check: what it accepts and refuses, and which checks come of it."""

from typing import Any

import pytest

from ngxstream.modules.health.conf import Check
from ngxstream.stream import peer_state
from ngxstream.stream.health import Rule
from tests.support.in_process import build

NTP = r"\xe3" + r"\x00" * 47


def text(words: str, before: str = "", more: str = "") -> str:
    """Return a configuration whose second line is a health_check of a group."""
    return (
        f"stream {{ {before} upstream u {{ server 127.0.0.1:1; }} server {{ listen 127.0.0.1:9; "
        f"proxy_pass u; {more}\nhealth_check {words}; }} }}"
    )


def checks(source: str) -> tuple[Check, ...]:
    """Return the checks of the only group of a configuration."""
    built = build(source)
    assert built.conf is not None, built.error
    health: Any = built.conf.upstreams[0].health
    found: tuple[Check, ...] = health.checks
    return found


def test_what_a_line_says_nothing_of_is_as_documented() -> None:
    """Every five seconds, one failure and one success decide, over TCP."""
    (check,) = checks(text(""))
    spec = check.spec
    assert (5000, 0, 0, False) == (spec.interval, spec.jitter, spec.port, spec.udp)
    assert Rule(1, 1, mandatory=False, persistent=False) == spec.rule
    assert 5000 == check.server.health.timeout  # type: ignore[attr-defined]


def test_a_line_is_read() -> None:
    """With all its parameters, in any order."""
    (check,) = checks(text(
        "passes=2 fails=3 jitter=100ms interval=2s mandatory persistent port=53 udp match=m "
        "fail_open=50%", before="match m { expect x; }", more="health_check_timeout 700ms;"
    ))
    spec = check.spec
    assert (2000, 100, 53, True, 50) == (
        spec.interval, spec.jitter, spec.port, spec.udp, spec.fail_open
    )
    assert Rule(3, 2, mandatory=True, persistent=True) == spec.rule
    assert 700 == check.server.health.timeout  # type: ignore[attr-defined]


@pytest.mark.refusal("health_check")
@pytest.mark.parametrize(
    "word",
    ["interval=0", "interval=x", "interval=", "jitter=-1", "fails=0", "passes=0", "fails=1x",
     "port=0", "port=65536", "agent=0", "agent=65536", "agent=x", "agent", "type=quic",
     "fail_open=50", "fail_open=0%", "fail_open=100%", "fail_open=%", "mandatory=1", "rise=2",
     "uri"],
)
def test_a_wrong_parameter_is_named(word: str) -> None:
    """As nginx does."""
    assert f'invalid parameter "{word}" in /p/conf/nginx.conf:2' == build(text(word)).error


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("persistent", '"persistent" requires "mandatory"'),
        ("name=a.test", '"name=" requires "type="'),
        ("type=tcp name=a.test", '"type=tcp" does not support "name="'),
        ("type=tcp udp", '"type=tcp" does not support "udp"'),
        ("type=tls udp", '"type=tls" does not support "udp"'),
        ("type=http udp", '"type=http" does not support "udp"'),
        ("type=dns match=m", '"match=" cannot be used with "type=dns"'),
        ("type=dns uri=/", 'invalid parameter of "type=dns": "uri" is unknown'),
        ("type=radius", 'invalid parameter of "type=radius": "secret" is missing'),
        ("match=n", 'match "n" is not found'),
        ("agent=9 match=n", 'match "n" is not found'),
        ("agent=9 fails=2", '"fails" cannot be used with "agent="'),
        ("agent=9 mandatory port=8", '"mandatory" cannot be used with "agent="'),
        ("agent=9 type=dns", '"type" cannot be used with "agent="'),
        ("agent=9 udp", '"udp" cannot be used with "agent="'),
        ("agent=9 uri=/", '"uri" cannot be used with "agent="'),
        ("agent=9 proxy_protocol", '"proxy_protocol" cannot be used with "agent="'),
        ("agent=9 match=m",
         'match "m" has "expect", which the check of an agent does not take,'),
    ],
)
def test_parameters_have_to_fit_together(words: str, error: str) -> None:
    """What does not is told with its place."""
    built = build(text(words, before="match m { expect x; }"))
    assert f"{error} in /p/conf/nginx.conf:2" == built.error


@pytest.mark.parametrize("to", ["proxy_pass 127.0.0.1:1;", "proxy_pass $name;", "return x;"])
def test_a_check_needs_a_group(to: str) -> None:
    """An address or a variable is none."""
    built = build(
        f"stream {{ map $remote_addr $name {{ default u; }} upstream u {{ server 127.0.0.1:1; }} "
        f"server {{ listen 127.0.0.1:9; {to}\nhealth_check; }} }}"
    )
    assert (
        '"health_check" requires "proxy_pass" to a named upstream in /p/conf/nginx.conf:2'
    ) == built.error


@pytest.mark.refusal("health_check_timeout")
def test_a_check_needs_time() -> None:
    """None at all would fail every server."""
    built = build(text("", more="health_check_timeout 0;"))
    assert '"health_check_timeout" is zero in /p/conf/nginx.conf:2' == built.error


@pytest.mark.parametrize(
    ("words", "warned"),
    [("udp", True), ("type=udp", True), ("udp match=said", True), ("udp match=heard", False),
     ("type=ntp", False), ("udp type=dns", False), ("", False), ("match=said", False)],
)
def test_a_check_that_finds_out_little_is_warned_of(words: str, warned: bool) -> None:
    """A UDP one that expects no answer."""
    built = build(text(words, before="match said { send x; } match heard { expect x; }"))
    line = (
        '[warn] a UDP health check without "expect" finds out nothing but ICMP errors '
        "in /p/conf/nginx.conf:2"
    )
    assert ([line] if warned else []) == built.warnings


@pytest.mark.parametrize(
    ("inside", "warning"),
    [
        ("server 127.0.0.1:1;", []),
        ("least_conn; server 127.0.0.1:1;", []),
        ("hash $remote_addr; server 127.0.0.1:1;",
         ['[warn] the method of upstream "u" takes no weight of an agent but 0']),
        ("random; server 127.0.0.1:1;",
         ['[warn] the method of upstream "u" takes no weight of an agent but 0']),
        ("server unix:/a;", [
            '[warn] a server of upstream "u" is a UNIX-domain socket, which has no agent'
        ]),
    ],
)
def test_what_an_agent_cannot_do_is_warned_of(inside: str, warning: list[str]) -> None:
    """A method that draws by whole weights, and servers that are at no host."""
    built = build(
        f"stream {{ upstream u {{ {inside} }} server {{ listen 127.0.0.1:9; proxy_pass u;\n"
        "health_check agent=9; } }"
    )
    assert built.conf is not None, built.error
    assert [f"{line} in /p/conf/nginx.conf:2" for line in warning] == built.warnings


@pytest.mark.parametrize(("words", "said"), [("", b""), ("match=said", b"who?\n")])
def test_an_agent_is_asked(words: str, said: bytes) -> None:
    """By nothing but the connection, or by what the match sends; without TLS."""
    (check,) = checks(text(f"agent=9 {words}", before=r"match said { send who?\x0a; }",
                           more="proxy_ssl on;"))
    assert said == next(check.dialogue())
    assert check.secure is None


def test_checks_of_a_group_are_those_of_all_servers() -> None:
    """Each line is one, also where two are the same."""
    found = checks(
        "stream { upstream u { server 127.0.0.1:1; } "
        "server { listen 127.0.0.1:9; proxy_pass u; health_check; health_check port=2; } "
        "server { listen 127.0.0.1:8; proxy_pass u; health_check; } }"
    )
    assert ["", "port=2", ""] == [one.spec.text for one in found]
    assert 3 == len({one.key for one in found})


def test_a_secret_is_not_shown() -> None:
    """The log shows the line."""
    (check,) = checks(text("type=radius secret=hunter2"))
    assert "type=radius secret=…" == check.spec.text
    assert dict(check.spec.options) == {"secret": "hunter2"}


def test_a_group_without_a_zone_is_given_one() -> None:
    """It is nobody's: the group is static as before, and the zone is not shown as its own."""
    built = build(text(""))
    assert built.conf is not None
    built.zones.build()
    conf = built.conf.upstreams[0]
    assert conf.zone is not None
    assert (None, False) == (conf.zone_name, conf.is_dynamic)
    assert ["upstream u", "health checks"] == list(built.zones.requests)
    built.zones.close()


def test_a_group_with_a_zone_keeps_it() -> None:
    """And one without checks has none."""
    built = build(
        "stream { upstream u { zone z 64k; server 127.0.0.1:1; } upstream v "
        "{ server 127.0.0.1:1; } server { listen 127.0.0.1:9; proxy_pass u; health_check; } }"
    )
    assert built.conf is not None
    assert ["z", "health checks"] == list(built.zones.requests)
    assert ["z", None] == [conf.zone_name for conf in built.conf.upstreams]


@pytest.mark.parametrize(("word", "newcomer"), [("", 0), ("mandatory", peer_state.CHECKING)])
def test_who_comes_is_checked_first_where_that_is_mandatory(word: str, newcomer: int) -> None:
    """A server that comes at run time."""
    built = build(text(word))
    assert built.conf is not None
    assert newcomer == built.conf.upstreams[0].newcomer


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", None),
        ("udp", b"nginx health check"),
        ("udp match=empty", b"nginx health check"),
        ("match=empty", None),
        ("match=said", b"\0hi\xff"),
        ("udp match=said", b"\0hi\xff"),
        ("type=redis", b"PING\r\n"),
    ],
)
def test_what_is_said_first(words: str, said: bytes | None) -> None:
    """Nothing over TCP, a text over UDP, or what the match or the type says."""
    (check,) = checks(text(words, before=r"match said { send \x00hi\xff; } match empty { }"))
    assert said == next(check.dialogue(), None)
