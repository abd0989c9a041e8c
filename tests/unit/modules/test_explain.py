"""/explain: its arguments, its reply, and one of a running program."""

from types import SimpleNamespace
from typing import Any

import pytest

from ngxstream.modules import explain
from ngxstream.stream.api import ApiError, Items, Request
from tests.support.api_calls import call, get
from tests.support.clients import TcpClient, tcp_exchange
from tests.support.in_process import InProcess
from tests.support.waiting import wait_until

CONF = """stream {
    map $remote_addr $who { default some; 127.0.0.1 me; }
    limit_conn_zone $remote_addr zone=l:32k;
    upstream u { server 127.0.0.1:1; server 127.0.0.1:2 down; }
    server { listen 127.0.0.1:@a@; server_name a.example; deny 10.0.0.0/8; limit_conn l 5;
             set $x $who; proxy_pass u; }
}"""


def ask(served: InProcess, **args: str) -> Any:
    """Return the reply's value, or status, code and text of an error."""
    s: Any = SimpleNamespace(loop=served.loop)
    request = Request(
        s, served.conf, "GET", {}, args, {}, None, False, lambda reply: None
    )
    operation = explain.MODULE.endpoints[0].operations["GET"]
    try:
        reply = operation.run(request)
    except ApiError as error:
        refused = error.status, error.code, error.text
        return refused if error.code in operation.errors else "undeclared"
    assert reply is not None
    assert isinstance(reply.value["peers"], Items)
    return {**reply.value, "peers": list(reply.value["peers"].values)}


def test_all_of_a_reply() -> None:
    """The contract, field by field."""
    with InProcess(CONF) as served:
        port = served.port("a")
        found = ask(served, client="127.0.0.1:5", local=f"127.0.0.1:{port}")
        place = found.pop("place")
    assert place.endswith("/nginx.conf:5")
    assert {
        "listen": f"127.0.0.1:{port}",
        "server": f"127.0.0.1:{port} a.example",
        "phases": [
            {"phase": "preaccess", "by": "set", "outcome": "goes on", "status": None,
             "why": "sets $x"},
            {"phase": "preaccess", "by": "limit_conn", "outcome": "goes on", "status": None,
             "why": "no limit is reached"},
            {"phase": "access", "by": "access", "outcome": "goes on", "status": None,
             "why": "no rule fits"},
            {"phase": "content", "by": "proxy", "outcome": "goes on", "status": None,
             "why": "rr: 127.0.0.1:1"},
        ],
        "variables": {"remote_addr": "127.0.0.1", "who": "me", "x": "me"},
        "limits": [{"zone": "l", "key": "127.0.0.1", "count": 0, "limit": 5, "rejects": False,
                    "dry_run": False}],
        "upstream": "u",
        "peer": "127.0.0.1:1",
        "peers": [
            {"server": "127.0.0.1:1", "usable": True, "why": "chosen"},
            {"server": "127.0.0.1:2", "usable": False, "why": "is down"},
        ],
        "verdict": "proxied",
        "status": None,
        "why": "rr: 127.0.0.1:1",
    } == found


def test_a_client_who_is_refused() -> None:
    """Where, by what, with which status."""
    with InProcess(CONF) as served:
        found = ask(served, client="10.0.0.1", local=f"127.0.0.1:{served.port('a')}",
                    protocol="tcp", server_name="a.example")
    assert ("refused", 403, "access: deny 10.0.0.0/8", None, None, []) == (
        found["verdict"], found["status"], found["why"], found["upstream"], found["peer"],
        found["peers"],
    )


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ({}, (400, explain.BAD, '"client" is required')),
        ({"client": "127.0.0.1"}, (400, explain.BAD, '"local" is required')),
        ({"client": "x", "local": "127.0.0.1:1"},
         (400, explain.BAD, 'invalid "client", an ADDRESS:PORT is wanted')),
        ({"client": "127.0.0.1", "local": "1"},
         (400, explain.BAD, 'invalid "local", an ADDRESS:PORT is wanted')),
        ({"client": "127.0.0.1", "local": "127.0.0.1:1", "protocol": "sctp"},
         (400, explain.BAD, 'invalid "protocol"')),
        ({"client": "127.0.0.1", "local": "127.0.0.1:1", "protocol": "udp"},
         (404, explain.NO_LISTENER, "nothing listens there over UDP")),
        ({"client": "unix:", "local": "unix:/nowhere"},
         (404, explain.NO_LISTENER, "nothing listens there")),
    ],
)
def test_what_is_asked_wrongly(args: dict[str, str], expected: tuple[int, str, str]) -> None:
    """Each has its word."""
    with InProcess(CONF) as served:
        assert expected == ask(served, **args)


def test_a_name_that_is_no_text() -> None:
    """Half of a surrogate pair names nobody."""
    with InProcess(CONF) as served:
        local = f"127.0.0.1:{served.port('a')}"
        assert (400, explain.BAD, 'invalid "server_name"') == ask(
            served, client="127.0.0.1", local=local, server_name="\ud800"
        )


def test_a_running_program_explains_and_counts_nothing(ngxstream, backends) -> None:
    """By HTTP, and beside a session that is counted; with a keyval that is changed meanwhile."""
    backend = backends.tcp()
    program = ngxstream(f"""events {{}} stream {{
        limit_conn_zone $server_port zone=l:32k;
        keyval_zone zone=k:32k type=ip; keyval $remote_addr $to zone=k;
        map $to $target {{ default group; nowhere 127.0.0.1:1; }}
        upstream group {{ zone z 64k; server {backend.text}; }}
        server {{ listen 127.0.0.1:@a@; limit_conn l 1; proxy_pass $target; }}
        server {{ listen 127.0.0.1:@api@; api write=on; }}
    }}""")
    path = "/api/ngxstream/1/explain?client=127.0.0.9&local={}:{}".format(*program.address("a"))
    assert ("proxied", backend.text) == ((found := get(program, path))["verdict"], found["peer"])
    with TcpClient(program.address("a")) as client:
        client.exchange(b"hello")
        for _ in range(2):
            found = get(program, path)
            assert ("refused", 503, 1) == (
                found["verdict"], found["status"], found["limits"][0]["count"]
            )
    assert 201 == call(program, "/api/9/stream/keyvals/k", "POST", {"127.0.0.0/24": "nowhere"})[0]
    assert {"127.0.0.0/24": "nowhere"} == get(program, "/api/9/stream/keyvals/k")
    assert "127.0.0.1:1" == get(program, path)["peer"]
    assert 204 == call(program, "/api/9/stream/keyvals/k/", "DELETE")[0]
    wait_until(lambda: get(program, path)["limits"][0]["count"] == 0, what="nobody is counted")
    assert b"x" == tcp_exchange(program.address("a"), b"x", size=1)
