"""What is said behind an error of a configuration: where to look, and nothing beyond that."""

import pytest

from ngxstream.conf import directive as d
from ngxstream.conf import hints
from ngxstream.core.errors import ConfError
from ngxstream.process import cycle, elsewhere

HINTS = hints.Hints(cycle.MODULES, elsewhere.NAMES)
PROCESSES = 'did you mean "worker_processes"? It stands in the main context'
PLUS = '"%s" is a directive of NGINX Plus, ngxstream does not have it'
OTHER = '"%s" is a directive of %s, ngxstream does not have it'
PREREAD = '; "py_preread" takes a function in Python'
SHARED = '; "store=" of a zone shares it with other hosts'
GEOIP = '; "geoip_country" and "geoip_city" read the legacy format'
BESIDE = (
    '"stream" stands beside "http", not inside of another block: a file with a stream block is '
    'included outside of "http"'
)
PLACES = '"error_log" stands in the main context, stream or server, this is events'
TIMEOUT = '"proxy_timeout" stands in stream or server, this is upstream'
FILL = "looks like a template that was not filled in"


def said(message: str, words: str = "", context: int = d.SERVER, text: str = "") -> str:
    """Return the hint for an error of a statement."""
    error = ConfError(message)
    error.words, error.context = tuple(words.split()), context
    return HINTS.of(error, text)


@pytest.mark.parametrize(
    ("name", "context", "hint"),
    [
        ("proxy_pas", d.SERVER, 'did you mean "proxy_pass"?'),
        ("porxy_pass", d.SERVER, 'did you mean "proxy_pass"?'),
        ("Listen", d.SERVER, 'did you mean "listen"?'),
        ("proxy-timeout", d.STREAM, 'did you mean "proxy_timeout"?'),
        ("least_con", d.SERVER, 'did you mean "least_conn"? It stands in upstream'),
        ("worker_proceses", d.STREAM, PROCESSES),
        ("mqtt_preread", d.SERVER, PLUS % "mqtt_preread" + PREREAD),
        ("zone_sync_server", d.SERVER, PLUS % "zone_sync_server" + SHARED),
        ("lua_code_cache", d.STREAM, OTHER % ("lua_code_cache", "lua-nginx-module (OpenResty)")),
        ("geoip2", d.STREAM, OTHER % ("geoip2", "ngx_http_geoip2_module") + GEOIP),
        ("nonsense", d.SERVER, ""),
        ("x" * 5000, d.SERVER, ""),
        ("", d.SERVER, ""),
    ],
)
def test_an_unknown_directive(name: str, context: int, hint: str) -> None:
    """The name that is nearly this one, its block, or whose directive it is."""
    assert hint == said(f'unknown directive "{name}"', name, context)


@pytest.mark.parametrize(
    ("name", "context", "hint"),
    [
        ("least_conn", d.SERVER, '"least_conn" stands in upstream, this is server'),
        ("proxy_timeout", d.UPSTREAM, TIMEOUT),
        ("error_log", d.EVENTS, PLACES),
        ("gzip", d.SERVER, '"gzip" is a directive of http or mail, which ngxstream does not serve'),
        ("stream", d.MAIN, BESIDE),
    ],
)
def test_a_directive_in_the_wrong_block(name: str, context: int, hint: str) -> None:
    """Where it may stand, or who serves it."""
    assert hint == said(f'"{name}" directive is not allowed here', name, context)


def test_a_value_with_a_unit_behind_it_stays_a_value() -> None:
    """`rate=numberr/s` would be a word that nobody understands."""
    message = 'invalid number of arguments in "limit_datagram_zone" directive'
    expected = "limit_datagram_zone key zone=name:size rate=<number>r/s|<number>r/m [store=url]"
    assert f"syntax: {expected}" == said(message, "limit_datagram_zone", d.STREAM)


@pytest.mark.parametrize(
    ("message", "words", "hint"),
    [
        ('invalid parameter "wieght=3"', "server 1:1 wieght=3", "did you mean weight=number?"),
        ('invalid parameter: valid=x', "resolver 127.0.0.1 valid=x", "the parameter is valid=time"),
        ('invalid log level "inof"', "error_log x inof", "did you mean info?"),
        ('invalid value "v3"', "proxy_protocol v3", "did you mean v2?"),
        ('invalid value "TLSv1.4"', "ssl_protocols TLSv1.4", "did you mean TLSv1?"),
        ('invalid number of arguments in "proxy_timeout" directive', "proxy_timeout 1 2",
         "syntax: proxy_timeout time"),
        ('"proxy_timeout" directive invalid value', "proxy_timeout abc",
         "syntax: proxy_timeout time"),
        ('"proxy_timeout" directive is duplicate', "proxy_timeout 1s", ""),
        ('invalid parameter "x"', "nonsense x", ""),
        ('unknown "remote_adr" variable', "return $remote_adr", 'did you mean "$remote_addr"?'),
        ('unknown "nosuch_name" variable', "return $nosuch_name", ""),
    ],
)
def test_a_wrong_word(message: str, words: str, hint: str) -> None:
    """The word that is nearly this one, or the syntax, out of the manual."""
    context = d.UPSTREAM if words.startswith("server ") else d.SERVER
    found = said(message, words, context)
    if "TLSv1.4" in words:
        assert found.startswith("did you mean TLSv1")
    else:
        assert hint == found


@pytest.mark.parametrize(
    ("message", "words", "text", "template"),
    [
        ('invalid port in "1:${PORT}" of the "listen"', "listen 1:${PORT}", "", "${PORT}"),
        ('host not found in "$PORT" of the "listen" directive', "listen $PORT", "", "$PORT"),
        ('directive "listen" is not terminated by ";"', "listen", "    listen {{ port }};",
         "{{ port }}"),
        ('"proxy_timeout" directive invalid value', "proxy_timeout @TIMEOUT@", "", "@TIMEOUT@"),
        ('"proxy_timeout" directive invalid value', "proxy_timeout <%=", "proxy_timeout <%= t %>;",
         "<%= t %>"),
        ('unknown "backend" variable', "stream", "proxy_pass ${BACKEND};", "${BACKEND}"),
    ],
)
def test_a_template_that_was_not_filled_in(
    message: str, words: str, text: str, template: str
) -> None:
    """What systems of templates leave behind is shown."""
    found = said(message, words, text=text)
    assert found.startswith(f'"{template}" {FILL}')


def test_a_variable_is_no_template() -> None:
    """Braces around a variable are nginx's own, where the error is about something else."""
    assert "" == said('duplicate map "x"', "map ${remote_addr} $x", d.STREAM)
    assert FILL not in said('unknown "adress" variable', "return", text="return ${adress};")
    assert FILL not in said('invalid parameter "x"', "access_log /${remote_addr} y x",
                            text="access_log /${remote_addr} y x;")


@pytest.mark.parametrize(
    ("one", "other", "most", "expected"),
    [("abc", "abc", 2, 0), ("abc", "acb", 2, 1), ("abc", "ab", 2, 1), ("abc", "xyz", 1, 2),
     ("", "ab", 2, 2), ("abcd", "abcde", 2, 1)],
)
def test_distances(one: str, other: str, most: int, expected: int) -> None:
    """Letters that are missing, added, wrong or exchanged."""
    assert expected == hints.distance(one, other, most)


def test_a_semicolon_that_is_missing() -> None:
    """A directive among the words of a statement of several lines, and a brace too early."""
    error = ConfError('invalid number of arguments in "proxy_timeout" directive', "/n.conf", 5)
    error.words, error.context = ("proxy_timeout", "5s", "proxy_pass", "x"), d.SERVER
    error.start_line = 4
    assert 'is a ";" missing in front of "proxy_pass"?' == HINTS.of(error)
    error.start_line = 5
    assert "syntax: proxy_timeout time" == HINTS.of(error)
    assert 'a ";" is missing in front of it, or a "{" further up' == said('unexpected "}"')
