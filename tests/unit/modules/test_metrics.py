"""/metrics and /stub_status: the text that scrapers read."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngxstream.modules import metrics
from ngxstream.stream import api
from ngxstream.stream.api import COUNTER, GAUGE, HISTOGRAM, ROOT, Family
from tests.support import tools
from tests.support.backends import Conversation, TcpBackend
from tests.support.in_process import InProcess
from tests.support.operations import call

TEXT = """stream {{
    upstream u {{ zone z 64k; server {0}; }}
    resolver 127.0.0.1:1 status_zone=r;
    server {{ listen 127.0.0.1:@a@; proxy_pass u; status_zone a; }}
    server {{ listen 127.0.0.1:@api@; api; }}
}}"""


def text_of(*modules: Any) -> list[str]:
    """Return the lines of what modules tell."""
    stream: Any = SimpleNamespace(modules=[SimpleNamespace(metrics=one) for one in modules])
    loop: Any = None
    return "".join(metrics.exposition(loop, stream)).splitlines()


def test_a_family_stands_once_whoever_contributes() -> None:
    """With the first one's head; modules without any, and turns for others, are no matter."""

    def first(*_: Any) -> Iterator[Family | None]:
        yield Family("x_total", COUNTER, "X", [('{a="1"}', 3)])
        yield None
        yield Family("y", GAUGE, "Y", [])

    def second(*_: Any) -> Iterator[Family | None]:
        yield Family("x_total", COUNTER, "Other", iter([('{a="2"}', 0.5)]))

    assert [
        "# HELP nginxplus_up Whether the last scrape was successful", "# TYPE nginxplus_up gauge",
        "nginxplus_up 1",
        "# HELP x_total X", "# TYPE x_total counter", 'x_total{a="1"} 3', 'x_total{a="2"} 0.5',
        "# HELP y Y", "# TYPE y gauge",
    ] == text_of(first, None, second)


@pytest.mark.parametrize(("name", "kind", "declared"), [
    ("a_total", COUNTER, "counter"), ("nginxplus_a", COUNTER, "untyped"), ("a", GAUGE, "gauge"),
    ("a", HISTOGRAM, "histogram"),
])
def test_a_counter_without_its_suffix_is_untyped(name: str, kind: str, declared: str) -> None:
    """Names of NGINX Plus have none, and promtool would complain."""
    head = metrics.head(Family(name, kind, "back\\slash and\nline", []))
    assert [f"# HELP {name} back\\\\slash and\\nline", f"# TYPE {name} {declared}"] == (
        head.splitlines()
    )


def test_the_text_comes_in_pieces() -> None:
    """Of so many samples at most, however many there are."""

    def many(*_: Any) -> Iterator[Family]:
        yield Family("n", GAUGE, "N", ((f'{{n="{n}"}}', n) for n in range(1001)))

    stream: Any = SimpleNamespace(modules=[SimpleNamespace(metrics=many)])
    loop: Any = None
    pieces = list(metrics.exposition(loop, stream))
    assert metrics.PORTION == max(piece.count("\n") for piece in pieces)
    assert 1001 == "".join(pieces).count("\nn{") + 0


def test_promtool_has_nothing_to_say() -> None:
    """About all that a configuration with everything in it tells."""
    promtool = tools.require("promtool")

    def answer(conversation: Conversation) -> None:
        conversation.send(conversation.recv_exactly(5))

    with TcpBackend(answer) as backend, InProcess(TEXT.format(backend.text)) as served:
        client = served.connect()
        client.send(b"hello")
        assert b"hello" == served.read(client)
        served.turn_until(lambda: not served.loop.sessions)
        served.conf.stop_worker(served.loop)
        found = "".join(call(served, "GET", "/metrics", tree=ROOT))
        done = subprocess.run([promtool, "check", "metrics"], input=found, text=True, check=False,
                              capture_output=True, timeout=20)
        assert (0, "", "") == (done.returncode, done.stdout, done.stderr)
        sent = "nginxplus_stream_upstream_server_sent"
        assert f'\n{sent}{{upstream="u",server="{backend.text}"}} 5\n' in found
        assert 'ngxstream_session_ends_total{server_zone="a",reason="closed"} 1' in found


def test_stub_status_is_nginx_s() -> None:
    """Four lines, to the blank at their ends."""
    with TcpBackend() as backend, InProcess(TEXT.format(backend.text)) as served:
        served.connect()
        served.turn_until(lambda: served.loop.sessions)

        def status() -> str:
            return str(call(served, "GET", "/stub_status", tree=ROOT))

        served.turn_until(lambda: "connections: 1" in status())
        assert (
            "Active connections: 1 \nserver accepts handled requests\n 1 1 1 \n"
            "Reading: 0 Writing: 1 Waiting: 0 \n"
        ) == status()


@given(st.lists(st.tuples(st.text(), st.integers(0, 1 << 70)), max_size=3 * metrics.PORTION),
       st.integers(1, 400))
@settings(max_examples=30)
def test_columns_are_written_as_samples_are(rows: list[tuple[str, int]], times: int) -> None:
    """Whatever stands in their labels."""
    rows = [(api.labels(a=text), n) for text, n in rows * times][:1000]
    columns = api.Columns([label for label, _ in rows], iter([n for _, n in rows]))
    assert rows == list(api.Columns(columns.labels, [n for _, n in rows]))

    def one_by_one(*_: Any) -> Iterator[Family]:
        yield Family("n", GAUGE, "N", rows)

    def at_once(*_: Any) -> Iterator[Family]:
        yield Family("n", GAUGE, "N", columns)

    assert text_of(one_by_one) == text_of(at_once)
