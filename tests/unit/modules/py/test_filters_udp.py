"""modules/py/filters_udp.py, modules/proxy/udp_filtered.py: datagrams through a filter, counted."""

from __future__ import annotations

import gc
import socket
import weakref
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngxstream.event import filtered
from ngxstream.event.turn_budget import TurnBudget
from ngxstream.modules.proxy import udp_one_way
from ngxstream.modules.py import filters_udp
from tests.support import in_process, ports
from tests.support.udp_filters import IMPORTS, Talk

UPPER = """
class F(Filter):
    def from_client(self, data):
        return data.upper()

    def from_upstream(self, data):
        return data.title()
"""
BATCH = """
class F(Filter):
    def from_client_batch(self, datagrams):
        assert type(datagrams) is list and {bytes} == set(map(type, datagrams))
        return [data.upper() for data in datagrams]

    def from_upstream_batch(self, datagrams):
        return [data.title() for data in datagrams]
"""
ASYNC = """
class F(Filter):
    async def from_client(self, data):
        await sleep(0.001)
        return data.upper()

    async def from_upstream(self, data):
        return data.title()
"""
ASYNC_BATCH = """
class F(Filter):
    async def from_client_batch(self, datagrams):
        await sleep(0.001)
        return [data.upper() for data in datagrams]

    async def from_upstream_batch(self, datagrams):
        await sleep(0)
        return [data.title() for data in datagrams]
"""
KINDS = {"single": UPPER, "batch": BATCH, "async": ASYNC, "async batch": ASYNC_BATCH}
PROGRAM = """
# what becomes of a datagram is its first letter: k kept, d dropped, 2 two of it, l a list of three
class F(Filter):
    def one(self, data):
        letter = data[:1]
        return {b"k": data, b"d": None, b"2": [data, data], b"l": (data, b"", data)}[letter]

class Single(F):
    def from_client(self, data):
        return self.one(data)

class Batch(F):
    def from_client_batch(self, datagrams):
        found = []
        for data in datagrams:
            made = self.one(data)
            found += [] if made is None else [made] if type(made) is bytes else made
        return found

class Async(F):
    async def from_client(self, data):
        if data[1:2] == b"w":
            await sleep(0)
        return self.one(data)
"""


@pytest.mark.effect("py_filter")
@pytest.mark.parametrize("lines", ["", "proxy_upload_rate 1m; proxy_download_rate 1m;"])
@pytest.mark.parametrize("kind", KINDS)
def test_datagrams_of_both_directions_pass(kind: str, lines: str, tmp_path: Path) -> None:
    """The first one, several of a turn, an empty one; each keeps its boundaries and its place."""
    with Talk(tmp_path, KINDS[kind], lines) as talk:
        talk.send(b"one")
        assert [b"ONE"] == talk.seen(1)
        talk.send(b"two", b"", b"three")
        assert [b"TWO", b"", b"THREE"] == talk.seen(3)
        talk.answer(b"aa", b"bb", b"")
        assert [b"Aa", b"Bb", b""] == talk.got(3)
        talk.send(*[b"x%03d" % n for n in range(40)])
        assert [b"X%03d" % n for n in range(40)] == talk.seen(40)
        proxy = talk.proxy
        assert (44, 3, 0, 0) == (proxy.requests, proxy.responses, proxy.spared, proxy.dropped)
        assert 3 + 8 + 160 == proxy.c.received


@settings(max_examples=25)
@given(data=st.data(), name=st.sampled_from(["Single", "Batch", "Async"]))
def test_what_leaves_is_what_the_filter_makes(
    data: Any, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever comes in whatever turns: dropped, doubled, waited for, always in order."""
    folder = tmp_path_factory.mktemp("filter")
    one = st.builds(
        lambda letter, wait, rest: letter + wait + rest,
        st.sampled_from([b"k", b"d", b"2", b"l"]), st.sampled_from([b"-", b"w"]),
        st.binary(max_size=20),
    )
    bursts = data.draw(st.lists(st.lists(one, min_size=1, max_size=6), min_size=1, max_size=5))
    factor: dict[bytes, Any] = {
        b"k": lambda d: [d], b"d": lambda d: [], b"2": lambda d: [d, d], b"l": lambda d: [d, b"", d]
    }
    with Talk(folder, PROGRAM, "proxy_requests 1000;", name=name) as talk:
        expected: list[bytes] = []
        seen: list[bytes] = []
        for burst in bursts:
            talk.send(*burst)
            made = [out for datagram in burst for out in factor[datagram[:1]](datagram)]
            seen += talk.seen(len(made))
            expected += made
        assert expected == seen
        talk.turn_until(lambda: talk.proxy.requests == sum(map(len, bursts)))
        proxy = talk.proxy
        assert proxy.requests - proxy.spared == len(expected)
        assert sum(len(data) for burst in bursts for data in burst) == proxy.c.received
        assert sum(map(len, expected)) == proxy.state.bytes_sent


@pytest.mark.parametrize("kind", ["single", "batch", "async"])
def test_a_direction_without_a_method_goes_its_usual_way(kind: str, tmp_path: Path) -> None:
    """No copy, no call: the session itself stands in the table, or reads the server."""
    only_up = KINDS[kind].split("\n\n")[0]
    with Talk(tmp_path, only_up) as talk:
        talk.send(b"a")
        assert [b"A"] == talk.seen(1)
        assert talk.loop.handlers[talk.proxy.pc_fd] == talk.proxy.on_event
    only_down = """
class F(Filter):
    def from_upstream(self, data):
        return data.title()
"""
    with Talk(tmp_path, only_down) as talk:
        talk.send(b"a")
        assert [b"a"] == talk.seen(1)
        (sink,) = talk.served.listeners[0].table.values()
        assert sink is talk.proxy
        talk.answer(b"bb")
        assert [b"Bb"] == talk.got(1)


def test_a_function_may_say_that_a_session_needs_none(tmp_path: Path) -> None:
    """It is asked once, also where the session goes on to another server."""
    code = """
asked = []
class Up(Filter):
    def from_client(self, data):
        return data.upper()

def F(session):
    asked.append(session.number)
    return Up(session) if session.preread.startswith(b"!") else None
"""
    dead = f"127.0.0.1:{ports.free_udp_port()}"
    for first, expected in ((b"!a", b"!A"), (b"a", b"a")):
        with Talk(tmp_path, code, servers=(dead,)) as talk:
            talk.send(first)
            assert [expected] == talk.seen(1)
            hook = talk.served.built.conf.servers[0].py.filter  # type: ignore[union-attr]
            assert 1 == len(hook.call.__globals__["asked"])


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ("proxy_responses 1;", 200),
        ("proxy_requests 1; proxy_responses 1;", 200),
        ("proxy_requests 1; proxy_responses 0;", 200),
    ],
)
@pytest.mark.parametrize("name", ["Drop", "DropLate"])
def test_a_dropped_datagram_is_owed_no_answer(
    lines: str, status: int, name: str, tmp_path: Path
) -> None:
    """Nobody waits for it: a session that owes nothing is over."""
    code = """
class Drop(Filter):
    def from_client(self, data):
        return None

class DropLate(Filter):
    async def from_client(self, data):
        await sleep(0.001)
"""
    with Talk(tmp_path, code, lines, name=name) as talk:
        talk.send(b"x")
        s = talk.session() if name == "DropLate" else None
        talk.turn_until(
            lambda: any("udp done" in line for _, line in talk.served.target.lines), "its end"
        )
        assert not talk.loop.sessions
        assert s is None or s.status == status
        assert [] == talk.seen(0)


def test_each_of_several_is_owed_an_answer(tmp_path: Path) -> None:
    """The session has all of them when two answers to one datagram of the client came."""
    code = """
class F(Filter):
    def from_client(self, data):
        return [data, data]

    def from_upstream(self, data):
        return None
"""
    with Talk(tmp_path, code, "proxy_requests 1; proxy_responses 1;") as talk:
        talk.send(b"x")
        assert [b"x", b"x"] == talk.seen(2)
        assert 2 == talk.proxy.due
        talk.answer(b"1")
        talk.turn_until(lambda: talk.proxy.responses == 1)
        assert talk.loop.sessions
        talk.answer(b"2")
        talk.turn_until(lambda: not talk.loop.sessions)
        assert [] == talk.got(0)
        assert any("from/to client:1/2" in line for _, line in talk.served.target.lines)


def test_what_a_script_sends_the_client_is_no_answer(tmp_path: Path) -> None:
    """What it sends the server is owed one."""
    code = """
class F(Filter):
    def from_client(self, data):
        self.session.send_to_client(b"wait")
        self.session.send_to_upstream(b"besides")
        return data
"""
    with Talk(tmp_path, code, "proxy_requests 1; proxy_responses 1;") as talk:
        talk.send(b"x")
        assert [b"besides", b"x"] == talk.seen(2)
        assert [b"wait"] == talk.got(1)
        proxy = talk.proxy
        assert (1, 0, 2) == (proxy.requests, proxy.responses, proxy.due)
        talk.answer(b"1", b"2")
        assert [b"1", b"2"] == talk.got(2)
        talk.turn_until(lambda: not talk.loop.sessions)


def test_the_first_that_was_sent_fails_over(tmp_path: Path) -> None:
    """As it has passed the filter; one that was dropped does not come back."""
    code = """
seen = []
class F(Filter):
    def from_client(self, data):
        seen.append(data)
        return None if data == b"drop" else data.upper()
"""
    dead = f"127.0.0.1:{ports.free_udp_port()}"
    with Talk(tmp_path, code, servers=(dead,)) as talk:
        talk.send(b"drop")
        talk.session()
        talk.send(b"keep")
        assert [b"KEEP"] == talk.seen(1)
        hook = talk.served.built.conf.servers[0].py.filter  # type: ignore[union-attr]
        assert [b"drop", b"keep"] == hook.call.from_client.__globals__["seen"]
        assert (2, 1) == (talk.proxy.requests, talk.proxy.spared)


@pytest.mark.parametrize("every", ["", "proxy_protocol_datagrams every;"])
def test_the_proxy_header_is_not_filtered(every: str, tmp_path: Path) -> None:
    """It is in front of what is sent first, or of all."""
    code = """
class F(Filter):
    def from_client(self, data):
        return None if data == b"drop" else [data.upper(), b"more"]
"""
    with Talk(tmp_path, code, f"proxy_protocol v2; {every}") as talk:
        talk.send(b"drop", b"a")
        first, second = talk.seen(2)
        assert first.startswith(b"\r\n\r\n\0\r\nQUIT\n")
        assert first.endswith(b"A")
        assert bool(every) == second.startswith(b"\r\n\r\n\0\r\nQUIT\n")
        assert second.endswith(b"more")
        assert 5 == talk.proxy.c.received


def test_datagrams_over_the_quota_begin_the_next_session(tmp_path: Path) -> None:
    """They are counted before the filter; each session has its own."""
    code = """
class F(Filter):
    def __init__(self, session):
        super().__init__(session)
        self.count = 0

    def from_client(self, data):
        self.count += 1
        return b"%d" % self.count
"""
    with Talk(tmp_path, code, "proxy_requests 2;") as talk:
        talk.send(*[b"x"] * 5)
        assert [b"1", b"1", b"1", b"2", b"2"] == sorted(talk.seen(5))
        assert 3 == len(talk.loop.sessions)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return 7", "TypeError: from_client() returned int, not bytes, None or a list of bytes"),
        ("return ['a', b'b', None]", "TypeError: from_client() returned a list of NoneType, str, "),
        ("return HOLD", "TypeError: from_client() cannot return HOLD"),
        ("return [b''] * 5000", "BufferError: from_client() returned 5000 datagrams for 1"),
        ("1 / 0", "ZeroDivisionError: division by zero in "),
        ("while True: pass", "TimeLimitError: it takes more than 20"),
        ("raise SystemExit(3)", "SystemExit: 3 in "),
    ],
)
@pytest.mark.parametrize("is_late", [False, True])
def test_a_failure_ends_its_own_session(
    body: str, said: str, is_late: bool, tmp_path: Path
) -> None:
    """With status 500 and one line; another client's goes on."""
    code = f"""
class F(Filter):
    {"async " if is_late else ""}def from_client(self, data):
        if data == b"ok":
            return data
        {"await sleep(0)" if is_late else "pass"}
        {body}
"""
    with Talk(tmp_path, code, "py_time_limit 20ms;") as talk, socket.socket(
        socket.AF_INET, socket.SOCK_DGRAM
    ) as other:
        other.connect(talk.served.address())
        other.send(b"ok")
        assert [b"ok"] == talk.seen(1)
        others = talk.session()
        talk.send(b"fail")
        talk.turn_until(talk.errors)
        (line,) = talk.errors()
        assert f'"f.F" failed: {said}' in line
        assert {others} == talk.loop.sessions
        other.send(b"ok")
        assert [b"ok"] == talk.seen(1)


def test_a_filter_that_cannot_be_made_takes_no_answers_from_others(tmp_path: Path) -> None:
    """The socket of its session, which nobody came to watch, is no other session's afterwards."""
    code = """
made = []
class F(Filter):
    def __init__(self, session):
        made.append(session)
        if len(made) == 1:
            1 / 0
        super().__init__(session)

    def from_client(self, data):
        return data
"""
    with Talk(tmp_path, code, "proxy_responses 1;") as talk:
        talk.send(b"fail")
        talk.turn_until(talk.errors)
        for _ in range(3):
            talk.loop.turn(wait_ms=0)  # what rests may be used again then
        talk.send(b"ok")
        assert [b"ok"] == talk.seen(1)
        talk.answer(b"answer")
        assert [b"answer"] == talk.got(1)


def test_what_came_before_a_failure_is_sent(tmp_path: Path) -> None:
    """Each datagram is done with by itself."""
    code = """
class F(Filter):
    def from_client(self, data):
        return data if data != b"bad" else 1 / 0
"""
    with Talk(tmp_path, code) as talk:
        talk.send(b"a")
        assert [b"a"] == talk.seen(1)
        talk.served.listeners[0]._limit = 64
        talk.send(b"b", b"bad", b"c")
        talk.turn_until(lambda: not talk.loop.sessions)
        assert ([b"b"], 1) == (talk.seen(1), len(talk.errors()))
        talk.send(b"d")  # begins anew
        assert [b"d"] == talk.seen(1)


def test_a_filter_may_deny(tmp_path: Path) -> None:
    """The session ends with 403; what the call returned is not sent."""
    code = """
class F(Filter):
    def from_client(self, data):
        if data == b"bad":
            self.session.deny()
        return data
"""
    with Talk(tmp_path, code) as talk:
        talk.send(b"a")
        assert [b"a"] == talk.seen(1)
        s = talk.session()
        talk.send(b"b", b"bad")
        talk.turn_until(lambda: s.status)
        assert (403, [b"b"]) == (s.status, talk.seen(1))
        assert [] == talk.errors()


STUCK = """
class F(Filter):
    async def from_client(self, data):
        await sleep(3600)
        return data

class Slow(Filter):
    async def from_client(self, data):
        if data == b"go on":
            return data
        await sleep(0.05)
        return data
"""


def test_what_waits_for_a_coroutine_is_bounded(tmp_path: Path) -> None:
    """By number and by bytes; the rest is dropped and counted, and nothing is kept at the end."""
    with Talk(tmp_path, STUCK, "py_buffer_size 4k;") as talk:
        talk.send(b"first")
        proxy = talk.session().content
        for _ in range(10):
            talk.send(*[bytes(1000)] * 8)
            talk.turn_until(lambda: proxy.requests % 8 == 1)
        assert (81, 81 - 5) == (proxy.requests, proxy.dropped)
        assert proxy.filtered.is_busy


def test_a_coroutine_that_denies_and_waits_is_not_waited_for(tmp_path: Path) -> None:
    """The session ends at once."""
    code = """
class F(Filter):
    async def from_client(self, data):
        self.session.deny()
        await sleep(3600)
"""
    with Talk(tmp_path, code) as talk:
        talk.send(b"x")
        talk.turn_until(lambda: any("connected to" in line for _, line in talk.served.target.lines))
        talk.turn_until(lambda: not talk.loop.sessions)
        assert [] == talk.errors()


@pytest.mark.parametrize("how", ["finalize", "failure"])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_a_session_that_has_ended_is_kept(kind: str, how: str, tmp_path: Path) -> None:
    """Its filter goes without the help of the cyclic collector, which no worker has."""
    code = KINDS[kind].replace("return data.title()", "return data.title() if data else 7")
    code = code.replace("[data.title() for data in datagrams]",
                        "[data.title() if data else 7 for data in datagrams]")
    with Talk(tmp_path, code) as talk:
        talk.send(b"a")
        assert [b"A"] == talk.seen(1)
        talk.answer(b"b")
        assert [b"B"] == talk.got(1)
        made = weakref.ref(talk.proxy.filtered.filter._filter)
        assert made() is not None
        gc.disable()
        try:
            if how == "finalize":
                talk.session().finalize(200)
            else:
                talk.answer(b"")
            talk.turn_until(lambda: not talk.loop.sessions)
            talk.loop.turn(wait_ms=0)
            assert made() is None
        finally:
            gc.enable()


def test_empty_datagrams_are_bounded_too(tmp_path: Path) -> None:
    """A number of them, though they have no bytes."""
    with Talk(tmp_path, STUCK) as talk:
        talk.send(b"first")
        proxy = talk.session().content
        for _ in range(8):
            talk.send(*[b""] * 50)
            talk.turn_until(lambda: proxy.requests % 50 == 1)
        assert 400 - filters_udp.QUEUED == proxy.dropped


def test_a_coroutine_keeps_the_order(tmp_path: Path) -> None:
    """What could be answered at once waits for what came before it."""
    with Talk(tmp_path, STUCK, name="Slow") as talk:
        talk.send(b"slow", b"go on", b"go on")
        assert [b"slow", b"go on", b"go on"] == talk.seen(3)


def test_a_slow_filter_has_its_share_of_a_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left of a drain is done in the turns that follow."""
    with Talk(tmp_path, UPPER) as talk:
        talk.send(b"a")
        assert [b"A"] == talk.seen(1)
        monkeypatch.setattr(filtered, "SHARE_NS", -1)
        way = talk.proxy.filtered.filter.up
        way.give([b"b", b"c", b"d"])
        assert way.is_busy
        assert [b"c", b"d"] == way.not_done()
        assert [b"B", b"C", b"D"] == talk.seen(3)
        assert not way.is_busy


def test_who_comes_when_a_turn_is_used_up_waits_for_another(tmp_path: Path) -> None:
    """So that expensive datagrams of some clients wait for each other, and others do not."""
    with Talk(tmp_path, UPPER) as talk:
        budget = talk.loop.get(TurnBudget)
        budget.has_share(None)
        budget.charge(1 << 40)  # by somebody else
        talk.send(b"a", b"b")
        s = talk.session()
        assert [b"A", b"B"] == talk.seen(2)
        way = s.content.filtered.filter.up
        budget.has_share(None)
        budget.charge(1 << 40)
        way.give([b"c"])
        assert (True, [b"c"]) == (way.is_busy, way.not_done())
        assert [b"C"] == talk.seen(1)
        assert not way.is_busy


def test_a_datagram_that_no_packet_can_carry_is_dropped(tmp_path: Path) -> None:
    """Towards either side; it is told, counted, and the session goes on."""
    code = """
class F(Filter):
    def from_client(self, data):
        return [bytes(70_000), data]

    def from_upstream(self, data):
        return [bytes(70_000), data]
"""
    with Talk(tmp_path, code) as talk:
        talk.send(b"a")
        assert [b"a"] == talk.seen(1)
        talk.answer(b"b")
        assert [b"b"] == talk.got(1)
        assert ["too large" in line for line in talk.errors()] == [True, True]
        assert 2 == talk.proxy.dropped


def test_a_session_that_idles_is_over_whatever_its_coroutine_waits_for(tmp_path: Path) -> None:
    """proxy_timeout is for both."""
    with Talk(tmp_path, STUCK, "proxy_timeout 50ms;") as talk:
        talk.send(b"x")
        s = talk.session()
        talk.turn_until(lambda: s.status)
        assert 200 == s.status
        assert not talk.loop.sessions


def test_sessions_that_a_filter_sees_have_sockets_of_their_own(tmp_path: Path) -> None:
    """Fire and forget too, whose sessions share one otherwise; nothing goes past the filter."""
    with Talk(tmp_path, UPPER, "proxy_requests 1; proxy_responses 0;") as talk:
        conf = talk.served.built.conf
        assert conf is not None
        assert conf.servers[0].proxy.lender is None
        assert udp_one_way.forwarder(conf.listenings[0], talk.loop) is None
        talk.send(b"a", b"b")
        assert [b"A", b"B"] == sorted(talk.seen(2))
        talk.turn_until(lambda: not talk.loop.sessions)


@pytest.mark.parametrize(
    "packed",
    [None, (1, (), ()), (b"", [], ()), (b"", (1,), ()), (b"", ()), (bytes(1 << 17), (), ()),
     (None, (b"",) * 1000, ())],
)
def test_what_can_be_of_no_filter_is_refused(packed: Any) -> None:
    """Another process may say anything."""
    with pytest.raises((TypeError, ValueError)):
        filters_udp.unpack(None, packed)  # type: ignore[arg-type]


@pytest.mark.refusal("py_filter")
@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("f.missing", 'function "f.missing" not found: '),
        ("f.Other", 'class "f.Other" is not derived from ngxstream.scripting.Filter'),
        ("f.later", '"f.later" is async: what "py_filter" names returns a Filter at once'),
        ("f.two", 'function "f.two" must take 1 argument: '),
        ("g.F", 'no "py_import" directives found for "g.F"'),
    ],
)
def test_what_can_make_no_filter_is_refused(word: str, said: str, tmp_path: Path) -> None:
    """When the configuration is read."""
    (tmp_path / "f.py").write_text(IMPORTS + """
class Other:
    def __init__(self, session): pass

async def later(session): pass

def two(a, b): pass
""")
    text = (f"stream {{ py_import f from {tmp_path}/f.py; server {{ listen 127.0.0.1:1 udp; "
            f"proxy_pass 127.0.0.1:2; py_filter {word}; }} }}")
    built = in_process.build(text)
    assert said in built.error
    assert "in /p/conf/nginx.conf:1" in built.error


@pytest.mark.refusal("py_filter")
def test_a_server_that_proxies_nothing_has_no_filter(tmp_path: Path) -> None:
    """One of its own is refused; one of the block around it is for the others."""
    (tmp_path / "f.py").write_text(IMPORTS + UPPER)
    text = (f"stream {{ py_import f from {tmp_path}/f.py; %s server {{ listen 127.0.0.1:1; "
            "return x; %s } }")
    line = "py_filter f.F;"
    assert 'py_filter" needs "proxy_pass" in ' in in_process.build(text % ("", line)).error
    assert "" == in_process.build(text % (line, "")).error
    assert "duplicate" in in_process.build(text % (line + line, "")).error
