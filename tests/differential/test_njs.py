"""njs's contracts, on nginx with njs and here: the same, or listed as different with the reason."""

import contextlib
import re
from pathlib import Path

import pytest

from tests.support import backends as b
from tests.support import clients, njs_contracts, proxies, tools
from tests.support.njs_contract import Contract, Seen
from tests.support.waiting import wait_until

CONF = """events {{}}
stream {{
    {name}_import m from m.{name};
    log_format l $status;
    access_log logs/access.log l;
    preread_timeout 5s;
    server {{ listen 127.0.0.1:@main@{udp}; {lines} }}
}}
"""


def require_njs() -> None:
    """Skip where there is no nginx with njs."""
    if tools.nginx_module(tools.require_nginx(), "stream_js") is None:
        tools.missing("nginx has no njs (Debian: libnginx-mod-stream-js)")


def notes(running: proxies.Proxy) -> tuple[str, ...]:
    """Return what functions have logged."""
    found = (re.sub(r"^js: ", "", one) for one in running.messages("warn"))
    return tuple(re.split(r",? (?:while|client:) ", one)[0] for one in found)


def run(program: type[proxies.Proxy], contract: Contract, folder: Path) -> Seen:
    """Have a program do it; return what came of it."""
    name = "js" if program is proxies.Nginx else "py"
    with b.UdpBackend() if contract.udp else b.TcpBackend(b.echo) as echo:
        lines = contract.lines.replace("x_", f"{name}_").replace("BACKEND", echo.text)
        conf = CONF.format(name=name, udp=" udp" if contract.udp else "", lines=lines)
        return _run(program(conf, folder), name, contract)


def _run(running: proxies.Proxy, name: str, contract: Contract) -> Seen:
    text = contract.js if name == "js" else contract.py
    (running.prefix / "conf" / f"m.{name}").write_text(text)
    with running:
        for _ in range(contract.sessions):
            answer = converse(running, contract)
        (*_, status) = running.wait_log(".", count=contract.sessions, name="logs/access.log")
        return Seen(answer, status, notes(running), len(running.messages("error")))


def wait_for_notes(running: proxies.Proxy, sent: tuple[bytes, ...]) -> None:
    """Wait until functions have seen what was sent: all of it, or the last piece."""
    if sent:
        ends = b"".join(sent).decode(), sent[-1].decode()
        wait_until(lambda: any(note.endswith(ends) for note in notes(running)))


def converse(running: proxies.Proxy, contract: Contract) -> bytes:
    """Be a client; return what was answered."""
    if contract.udp:
        with clients.UdpClient(running.address("main")) as udp:
            for number, piece in enumerate(contract.sent):
                wait_for_notes(running, contract.sent[:number])
                udp.send(piece)
            expected = contract.seen.answer.split(b"|") if contract.seen.answer else ()
            return b"|".join(udp.recv() for _ in expected)
    answer = b""
    with clients.TcpClient(running.address("main")) as client:
        for number, piece in enumerate(contract.sent):
            wait_for_notes(running, contract.sent[:number])
            with contextlib.suppress(OSError):
                client.send(piece)
        if contract.ends:
            client.half_close()
        with contextlib.suppress(ConnectionResetError):
            while piece := client.recv():
                answer += piece
    return answer


@pytest.mark.parametrize("contract", njs_contracts.ALL, ids=lambda one: one.what)
def test_njs_does_what_the_table_says(contract: Contract, tmp_path: Path) -> None:
    """The left side of docs/scripting-njs.md."""
    require_njs()
    assert contract.seen == run(proxies.Nginx, contract, tmp_path)


@pytest.mark.parametrize("contract", njs_contracts.ALL, ids=lambda one: one.what)
def test_a_function_of_python_does_the_same_or_what_is_listed(
    contract: Contract, tmp_path: Path
) -> None:
    """The right side."""
    expected = contract.seen if contract.ours is None else contract.ours
    assert expected == run(proxies.Ngxstream, contract, tmp_path)


def test_what_differs_says_how_and_why() -> None:
    """And nothing else does."""
    for one in njs_contracts.ALL:
        assert (one.ours is not None) == bool(one.differs) == bool(one.why), one.what
        assert one.ours != one.seen, one.what


@pytest.mark.parametrize(
    "lines",
    ["x_set v m.f;", "x_set $v;", "x_var v;", "x_var;",
     "x_set $status m.f;", "x_var $status;", "x_access;", "x_access m.f; x_access m.g;",
     "x_preread m.f; x_preread m.f;"],
)
def test_what_is_refused_is_refused_with_njs_s_words(lines: str, tmp_path: Path) -> None:
    """Where both know the mistake."""
    require_njs()
    said = []
    for program, name, text in (
        (proxies.Nginx, "js", "function f(s) {} function g(s) {} export default {f, g};"),
        (proxies.Ngxstream, "py", "def f(s): pass\ndef g(s): pass\n"),
    ):
        conf = CONF.format(name=name, udp="", lines=lines.replace("x_", f"{name}_") + " return x;")
        running = program(conf, tmp_path)
        (running.prefix / "conf" / f"m.{name}").write_text(text)
        verdict = running.test()
        assert 1 == verdict.code
        found = re.search(r"\[emerg\] (?:\d+#\d+: )?(.*) in ", verdict.stderr)
        assert found, verdict.stderr
        said.append(found[1].replace(f"{name}_", "x_"))
    assert said[0] == said[1]
