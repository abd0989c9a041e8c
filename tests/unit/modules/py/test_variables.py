"""py_set and py_var: values, their times, faults, and what the reader refuses."""

from pathlib import Path

import pytest

from tests.support.backends import BackendFactory
from tests.support.clients import UdpClient, tcp_exchange, udp_exchange
from tests.support.in_process import build
from tests.support.proxies import Proxy, ProxyFactory
from tests.support.scripts import scripted

VALUES = """
from ngxstream.scripting import MORE, Session, sleep

calls = 0

def text(s): return "tête"
def raw(s): return b"\\x00\\xff"
def number(s): return -7
def truth(s): return True
def none(s): return None
def empty(s): return ""
def surrogate(s): return b"\\xff".decode("utf-8", "surrogateescape")
def broken(s): return "\\ud800"
def array(s): return bytearray(b"ab")
def real(s): return 1.5
def long(s): return "x" * 65537
def raises(s): raise ValueError("no\\nidea")
def leaves(s): raise SystemExit(1)
def hangs(s):
    while True: pass
def counted(s):
    global calls
    calls += 1
    return calls
def itself(s): return f"[{s.variables.get('itself')}]"
def one(s): return f"1{s.variables['two']}"
def two(s): return f"2{s.variables['one']}"
def asks_hanging(s):
    return f"got {s.variables['hangs']}"
def coroutine(s): return waits(s)
async def waits(s): return "x"
def writes(s):
    s.variables["a"] = f"{s.variables['a']}+"
    return s.variables["a"]
def changes(s):
    s.variables["a"] = s.preread or "?"
def reads_only(s):
    try:
        s.variables["one"] = "x"
    except TypeError as error:
        return str(error)
def at_end(s): return f"{s.status} {s.end_reason}"
def denies(s): s.deny()
def closes(s): s.close()
def two_arguments(s, t): return ""
"""
NAMES = ("text", "raw", "number", "truth", "none", "empty", "surrogate", "broken", "array", "real",
         "long", "raises", "leaves", "hangs", "counted", "itself", "one", "two", "asks_hanging",
         "coroutine", "writes", "reads_only", "denies", "closes")
CONF = """worker_processes %(workers)d;
events {}
stream {
    py_import m from m.py;
    py_time_limit 20ms;
    %(sets)s
    py_set $again m.counted nocache;
    py_set $at_end m.at_end;
    py_var $a first;
    py_var $b "$protocol-$a";
    py_var $c;
    log_format l "$at_end [$a]";
    access_log logs/access.log l;
    server { listen 127.0.0.1:@main@; return "[%(text)s]"; %(lines)s }
    server { listen 127.0.0.1:@udp@ udp; return "[%(text)s]"; %(lines)s }
}
"""


def serving(factory: ProxyFactory, text: str, lines: str = "", workers: int = 1) -> Proxy:
    """Start a program that returns a text, over TCP and UDP."""
    sets = " ".join(f"py_set ${name} m.{name};" for name in NAMES)
    words = {"sets": sets, "text": text, "lines": lines, "workers": workers}
    return scripted(factory, CONF % words, m=VALUES)


@pytest.mark.effect("py_set")
@pytest.mark.parametrize("workers", [1, 4])
def test_a_value_is_what_the_function_returns(ngxstream: ProxyFactory, workers: int) -> None:
    """Text in UTF-8, bytes as they are, a number in decimal; None is no value."""
    running = serving(ngxstream, "$text|$raw|$number|$truth|$none|$empty|$surrogate|$array",
                      workers=workers)
    expected = b"[t\xc3\xaate|\x00\xff|-7|1||||ab]".replace(b"||||", b"|||\xff|")
    assert expected == tcp_exchange(running.address("main"))
    assert expected == udp_exchange(running.address("udp"), b"x")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("raises", r"ValueError: no\x0Aidea in "),
        ("leaves", "SystemExit: 1 in "),
        ("hangs", "TimeLimitError: it takes more than 20"),
        ("real", "TypeError: a variable is str, bytes, int or None, not float"),
        ("coroutine", "TypeError: a variable is str, bytes, int or None, not coroutine"),
        ("long", "ValueError: a variable has 65536 bytes at most, not 65537"),
        ("broken", "UnicodeEncodeError: "),
        ("denies", "ScriptError: a variable does not decide what becomes of the session"),
        ("closes", "ScriptError: a variable does not decide what becomes of the session"),
    ],
)
def test_what_fails_is_not_found_and_one_line(
    ngxstream: ProxyFactory, name: str, said: str
) -> None:
    """The session goes on, and so do others."""
    running = serving(ngxstream, f"${name}|$text")
    for _ in range(2):
        assert b"[|t\xc3\xaate]" == tcp_exchange(running.address("main"))
    messages = running.messages("error")
    assert 2 == len(messages)
    assert all(one.startswith(f'"m.{name}" failed: {said}') for one in messages), messages


def test_a_function_is_called_once_for_a_session_unless_it_says_nocache(
    ngxstream: ProxyFactory
) -> None:
    """A value is kept for the session; with `nocache` it is fresh."""
    running = serving(ngxstream, "$counted $counted $again $again")
    assert b"[1 1 2 3]" == tcp_exchange(running.address("main"))
    assert b"[4 4 5 6]" == tcp_exchange(running.address("main"))


def test_what_leads_back_to_itself_ends(ngxstream: ProxyFactory) -> None:
    """A variable that is asked for while it is evaluated has no value, and one line says so."""
    running = serving(ngxstream, "$itself $one")
    assert b"[[None] 12]" == tcp_exchange(running.address("main"))
    said = [line.partition(" while returning")[0] for line in running.messages("error")]
    assert [f'cycle while evaluating variable "{name}"' for name in ("itself", "one")] == said


def test_the_time_of_a_function_is_that_of_who_asks_too(ngxstream: ProxyFactory) -> None:
    """One that asks for a variable that hangs is ended with it: no time is added up."""
    running = serving(ngxstream, "$asks_hanging|")
    assert b"[|]" == tcp_exchange(running.address("main"))
    (message,) = running.messages("error")
    assert message.startswith('"m.asks_hanging" failed: TimeLimitError: ')


@pytest.mark.effect("py_var")
@pytest.mark.parametrize("workers", [1, 4])
def test_a_py_var_is_written_by_functions(ngxstream: ProxyFactory, workers: int) -> None:
    """Before that it has its value, or is empty; a session's is its own."""
    running = serving(ngxstream, "$a $b $c|$writes $a", workers=workers)
    for _ in range(3):
        assert b"[first TCP-first |first+ first+]" == tcp_exchange(running.address("main"))
        expected = b"[first UDP-first |first+ first+]"
        assert expected == udp_exchange(running.address("udp"), b"x")
    assert [] == running.messages("error")


def test_what_is_no_py_var_cannot_be_written(ngxstream: ProxyFactory) -> None:
    """A function gets a TypeError that says so."""
    running = serving(ngxstream, "$reads_only")
    assert b"[the variable $one cannot be set]" == tcp_exchange(running.address("main"))


def test_what_a_function_wrote_is_in_the_access_log(ngxstream: ProxyFactory) -> None:
    """And a py_set of log_format sees how the session has ended."""
    running = serving(ngxstream, "$a", "py_access m.changes;")
    assert b"[?]" == tcp_exchange(running.address("main"))
    assert ["200 closed [?]"] == running.wait_log(".", name="logs/access.log")


@pytest.mark.parametrize("workers", [1, 4])
def test_what_was_written_goes_with_a_udp_session(
    ngxstream: ProxyFactory, backends: BackendFactory, workers: int
) -> None:
    """To the workers of the next configuration, which log it in the end."""
    server = backends.udp()
    lines = f"""py_access m.changes; proxy_pass {server.text};
        proxy_requests 3; proxy_responses 1; """
    conf = CONF.replace('udp; return "[%(text)s]";', f"udp; {lines}")
    words = {"sets": "", "text": "", "lines": "", "workers": workers}
    running = scripted(ngxstream, conf % words, m=VALUES)
    with UdpClient(running.address("udp")) as client:
        client.exchange(b"before")
        running.reload()
        client.exchange(b"one")
        client.exchange(b"two")
        assert ["200 responses_complete [before]"] == running.wait_log(
            ".", name="logs/access.log"
        )
    assert 1 == len(server.sources)


def bad(tmp_path: Path, use: str) -> str:
    """Return what is said of a use."""
    (tmp_path / "m.py").write_text(VALUES)
    (tmp_path / "n.py").write_text(VALUES)
    return build(
        f"stream {{ py_import m from {tmp_path}/m.py; {use} "
        "server { listen 127.0.0.1:9; return x; } }"
    ).error


@pytest.mark.refusal("py_set")
@pytest.mark.parametrize(
    ("use", "words"),
    [
        ("py_set $x;", 'invalid number of arguments in "py_set" directive'),
        ("py_set x m.text;", 'invalid variable name "x"'),
        ("py_set $ m.text;", 'invalid variable name "$"'),
        ("py_set $x m.text cache;", 'unrecognized flag "cache"'),
        ("py_set $x m.gone;", "function \"m.gone\" not found: module 'm' has no attribute 'gone'"),
        ("py_set $x n.text;", 'no "py_import" directives found for "n.text"'),
        ("py_set $x m.two_arguments;", 'function "m.two_arguments" must take 1 argument: '),
        ("py_set $x m.waits;",
         'function "m.waits" cannot be a coroutine function: "py_set" does not wait'),
        ("py_set $x m.text; py_set $X m.raw;",
         'variable "$X" is redeclared with different function name'),
        ("py_set $x m.text; py_var $x a;", 'variable "$x" is redeclared with different value'),
        ("py_set $remote_addr m.text;", 'the duplicate "remote_addr" variable'),
    ],
)
def test_a_bad_py_set_is_refused(tmp_path: Path, use: str, words: str) -> None:
    """With njs's words where it has any."""
    error = bad(tmp_path, use)
    assert error.startswith(words)
    assert error.endswith(":1")


def test_one_word_for_two_functions_is_refused(tmp_path: Path) -> None:
    """Modules of two servers may have the same name, a variable has one function."""
    use = (f"py_set $x m.text; server {{ listen 127.0.0.1:8; return x; "
           f"py_import m from {tmp_path}/n.py; py_set $x m.text; }}")
    assert 'variable "$x" is redeclared with different function name' in bad(tmp_path, use)


@pytest.mark.refusal("py_var")
@pytest.mark.parametrize(
    ("use", "words"),
    [
        ("py_var;", 'invalid number of arguments in "py_var" directive'),
        ("py_var x;", 'invalid variable name "x"'),
        ("py_var $;", 'invalid variable name "$"'),
        ("py_var $x $;", "invalid variable name"),
        ("py_var $x a; py_var $x b;", 'variable "$x" is redeclared with different value'),
        ("py_var $x a; py_set $x m.text;",
         'variable "$x" is redeclared with different function name'),
        ("py_var $remote_addr;", 'the duplicate "remote_addr" variable'),
        ("py_var $x $gone;", 'unknown "gone" variable'),
    ],
)
def test_a_bad_py_var_is_refused(tmp_path: Path, use: str, words: str) -> None:
    """With njs's words where it has any."""
    assert bad(tmp_path, use).startswith(words)


def test_the_same_again_is_no_harm(tmp_path: Path) -> None:
    """Each server may say what it uses."""
    same = "py_set $x m.text; py_var $y a;"
    assert "" == bad(tmp_path, f"{same} server {{ listen 127.0.0.1:8; return $x$y; {same} }}")
