"""The commands: what each asks for, and what it says."""

import json
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

import pytest

from ngxstream.ctl import commands, main
from ngxstream.ctl.client import REFUSED, USAGE, Client, CtlError
from tests.support.fake_api import FakeApi, fake_api

HOSTILE = "\x1b[2J"
PEER = {
    "id": 3, "server": "10.0.0.1:53", "name": "10.0.0.1:53", "backup": False, "weight": 2,
    "state": "down", "active": 1, "connections": 7, "sent": 1500, "received": 10, "fails": 1,
    "unavail": 0, "downtime": 0, "health_checks": {"checks": 0, "fails": 0, "unhealthy": 0},
}
ZONE = {
    "processing": 1, "connections": 9, "sessions": {"2xx": 6, "4xx": 1, "5xx": 1, "total": 8},
    "discarded": 0, "received": 2000, "sent": 3,
}
WORKER = {
    "id": 0, "pid": 11, "generation": 1, "state": "serving",
    "connections": {"accepted": 5, "dropped": 0, "active": 1, "idle": 0},
    "sessions": {"tcp": 1, "udp": 2}, "loop_delay_ms": {"max": 9, "p50": 0, "p99": 4},
    "udp": {"drops": {"kernel": 2, "header": 1}}, "memory_bytes": 30_000_000,
}
SESSION = {
    "id": "11-4", "protocol": "udp", "client": "192.0.2.1:9", "listen": "127.0.0.1:53",
    "server": HOSTILE, "upstream": "u", "peer": None, "state": "relaying", "age_ms": 1500,
    "idle_ms": 10, "received": 1, "sent": 2,
}
SERVERS = [{"id": 0, "server": "10.0.0.1:53"}, {"id": 1, "server": "10.0.0.2:53"},
           {"id": 2, "server": "10.0.0.2:53"}]
REPLIES = {
    "GET /api/9/nginx": {"build": "ngxstream-1", "generation": 2, "ppid": 10,
                         "load_timestamp": "2026-01-01T00:00:00.000Z",
                         "timestamp": "2026-01-01T00:00:09.000Z"},
    "GET /api/9/connections": {"accepted": 5, "dropped": 0, "active": 1, "idle": 0},
    "GET /api/9/processes": {"respawned": 1},
    "GET /api/9/stream/upstreams": {"u": {"peers": [PEER], "zombies": 0, "zone": "z"}},
    "GET /api/9/stream/server_zones": {HOSTILE: ZONE},
    "GET /api/9/stream/upstreams/u/servers": SERVERS,
    "GET /api/ngxstream/1/workers": {"master": {"pid": 10, "state": "running"},
                                     "workers": [WORKER, {**WORKER, "pid": 12, "state": "leaving"}],
                                     "silent": [12]},
    "GET /api/ngxstream/1/sessions": {"sessions": [SESSION], "cursor": None, "matched": 5,
                                      "silent": [12]},
    "GET /api/ngxstream/1/explain": {"server": "z", "peers": [{"server": "a", "usable": True}],
                                     "why": HOSTILE, "upstream": None},
    "GET /api/ngxstream/1/reloads": {
        "configuration": {"file": "/x.conf", "generation": 2, "age_s": 60},
        "reloads": [{"time": "T", "verdict": "failed", "generation": 2, "duration_ms": 5,
                     "sessions_carried": 0, "message": f"no {HOSTILE}"}],
    },
    "GET /api/ngxstream/1/node": {"draining": False, "since": None},
    "GET /api/ngxstream/1/certificates": {
        "certificates": [{"days_left": 9, "not_after": "T", "names": ["a", "b"], "subject": "",
                          "file": "f"}],
    },
    "GET /api/ngxstream/1/log": {
        "lines": [{"time": "T", "level": "error", "pid": 1, "connection": 4, "text": HOSTILE}],
    },
    "GET /api/9/stream/keyvals/z": {"a": "1"},
    "POST /api/ngxstream/1/upstreams/u/probe": {
        "probes": [{"check": "match=m", "id": 0, "peer": "10.0.0.1:53", "passed": passed,
                    "why": HOSTILE, "took_ms": 4, "sent": "hi", "received": HOSTILE,
                    "expected": '"ho"', "parts_at": parts_at, "certificate_days_left": days}
                   for passed, parts_at, days in ((True, None, 9), (False, 1, None),
                                                  (None, None, None))],
    },
}


@pytest.fixture
def api() -> Iterator[tuple[FakeApi, Client]]:
    """Give an API with one of everything, and its client."""
    with fake_api() as (fake, url):
        for what, body in REPLIES.items():
            fake.reply(what, body)
        fake.reply("GET /metrics", b"nginxplus_up 1\n")
        fake.reply("GET /healthz", b"ok")
        with Client.of(url) as client:
            yield fake, client


def run(client: Client, *words: str) -> tuple[str, Any]:
    """Run one command by its words."""
    args: Namespace = main.parser().parse_args(words)
    (command,) = [one for one in commands.COMMANDS if one.name == words[0]]
    return command.run(client, args)


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("status", ["the last reload, T, FAILED: no \\x1b[2J\n",
                    "the loop of these workers STANDS STILL, by pid: 12\nngxstream-1 (conf",
                    "master 10, 1 worker, 1 leaving, 1 respawned", "12", "10.0.0.1:53", "down"]),
        ("servers", [r"\x1b[2J", "2.0k"]),
        ("upstreams", ["10.0.0.1:53", "down", "1.5k"]),
        ("upstreams u", ["10.0.0.1:53"]),
        ("sessions", ["11-4", "1.5s", "1 of 5", "12", r"\x1b[2J"]),
        ("explain udp 192.0.2.1:9 127.0.0.1:53", ["server: z", "usable: yes", r"why: \x1b[2J",
                                                  "upstream: -"]),
        ("reloads", ["/x.conf, configuration 2, loaded 1m00s ago", "failed", r"no \x1b[2J"]),
        ("workers", ["serving", "STANDS STILL", "30M"]),
        ("certificates", ["a, b", "9"]),
        ("log", [r"T [error] 1: *4 \x1b[2J"]),
        ("metrics", ["nginxplus_up 1"]),
        ("healthz --upstream u", ["ok"]),
        ("keyval list z", ["a"]),
        ("probe u", [r"10.0.0.1:53  passed: \x1b[2J", "(4 ms)", "health_check match=m",
                     "in 9 days", 'sent      "hi"', r'received  "\x1b[2J', 'expected  "ho"',
                     "FAILED", "differ from byte 1", "not made"]),
    ],
)
def test_what_is_there_is_shown(api: tuple[FakeApi, Client], words: str, shown: list[str]) -> None:
    """Each command prints what the API tells, and nothing that a terminal obeys."""
    text, value = run(api[1], *words.split())
    assert [] == [one for one in shown if one not in text]
    assert "\x1b" not in text
    json.dumps(value)


def test_a_group_that_is_not_there_is_told(api: tuple[FakeApi, Client]) -> None:
    """Not an empty table."""
    with pytest.raises(CtlError, match='no upstream "x"'):
        run(api[1], "upstreams", "x")


def test_a_certificate_that_is_chosen_for_each_client_is_last(api: tuple[FakeApi, Client]) -> None:
    """Nobody knows when it expires."""
    fake, client = api
    known = {"days_left": 9, "not_after": "T", "names": ["a"], "subject": "", "file": "f"}
    chosen = {"days_left": None, "not_after": None, "names": [], "subject": "", "file": "$name"}
    fake.reply("GET /api/ngxstream/1/certificates", {"certificates": [chosen, chosen, known]})
    assert ["9", "-", "-"] == [
        line.split()[0] for line in run(client, "certificates")[0].splitlines()[1:]
    ]


def test_pages_of_sessions_are_put_together(api: tuple[FakeApi, Client]) -> None:
    """The cursor is followed until the limit is reached."""
    fake, client = api
    page = {"sessions": [SESSION], "cursor": "more", "matched": 9, "silent": []}
    fake.reply("GET /api/ngxstream/1/sessions", page)
    _, value = run(client, "sessions", "--limit", "3", "--client", "192.0.2.0/24")
    assert 3 == len(value["sessions"])
    assert ["limit=3&client=192.0.2.0%2F24", "limit=2&cursor=more&client=192.0.2.0%2F24",
            "limit=1&cursor=more&client=192.0.2.0%2F24"] == [one[1] for one in fake.requests]


@pytest.mark.parametrize(
    ("words", "request_", "body"),
    [
        ("drain u 10.0.0.1:53", "PATCH /api/9/stream/upstreams/u/servers/0", {"drain": True}),
        ("down u 2", "PATCH /api/9/stream/upstreams/u/servers/2", {"down": True}),
        ("up u 1", "PATCH /api/9/stream/upstreams/u/servers/1", {"down": False, "drain": False}),
        ("weight u 1 5", "PATCH /api/9/stream/upstreams/u/servers/1", {"weight": 5}),
        ("drain-node", "PATCH /api/ngxstream/1/node", {"draining": True}),
        ("drain-node --undo", "PATCH /api/ngxstream/1/node", {"draining": False}),
        ("remove u 1", "DELETE /api/9/stream/upstreams/u/servers/1", None),
        ("add u a:1 --weight 2 --backup", "POST /api/9/stream/upstreams/u/servers",
         {"server": "a:1", "weight": "2", "backup": True}),
        ("kill 11-4", "DELETE /api/ngxstream/1/sessions/11-4", None),
        ("kill --upstream u", "DELETE /api/ngxstream/1/sessions", None),
        ("keyval add z k v", "POST /api/9/stream/keyvals/z", {"k": "v"}),
        ("keyval add z k v --expire 9s", "POST /api/9/stream/keyvals/z",
         {"k": {"value": "v", "expire": 9000}}),
        ("keyval set z a v", "PATCH /api/9/stream/keyvals/z", {"a": "v"}),
        ("keyval del z a", "PATCH /api/9/stream/keyvals/z", {"a": None}),
        ("keyval clear z", "DELETE /api/9/stream/keyvals/z", None),
    ],
)
def test_a_change_is_asked_for(
    api: tuple[FakeApi, Client], words: str, request_: str, body: Any
) -> None:
    """Each changing command sends one request that says what is to be."""
    fake, client = api
    fake.reply(request_, {"id": 7, "server": "a:1", "ended": 1, "draining": True})
    if request_ == "DELETE /api/9/stream/upstreams/u/servers/1":
        fake.reply(request_, [])
    run(client, *words.split())
    assert (request_, body) == (fake.requests[-1][0], fake.requests[-1][3])


def test_of_several_sessions_the_one_that_is_not_there_is_named(
    api: tuple[FakeApi, Client],
) -> None:
    """With how many were ended before it."""
    fake, client = api
    fake.reply("DELETE /api/ngxstream/1/sessions/11-4", b"", 204)
    with pytest.raises(CtlError, match=r'^"9-9": .*; 1 ended$') as raised:
        run(client, "kill", "11-4", "9-9")
    assert REFUSED == raised.value.code


def test_why_no_clients_may_come_is_told(api: tuple[FakeApi, Client]) -> None:
    """And that is a failure of the command, for scripts."""
    fake, client = api
    fake.reply("GET /healthz", b"draining", 503)
    with pytest.raises(CtlError, match="HTTP 503: draining") as caught:
        run(client, "healthz")
    assert REFUSED == caught.value.code


def test_a_pair_is_shown_by_whatever_its_key_is_written(api: tuple[FakeApi, Client]) -> None:
    """The API writes the key of a network in one way, which need not be that of who asks."""
    fake, client = api
    fake.reply("GET /api/9/stream/keyvals/z", {"2001:db8::/32": "v"})
    assert "v" == run(client, "keyval", "get", "z", "2001:DB8::/32")[0]


@pytest.mark.parametrize(
    ("master", "shown"),
    [
        ({"pid": 10, "state": "gone"}, "the master process 10 is GONE: its workers serve on"),
        ({"pid": None, "state": "none"}, "one process, no master, 1 worker,"),
        (None, "master 10, 1 worker,"),  # of a program that does not tell
    ],
)
def test_a_master_that_is_gone_is_not_well(
    api: tuple[FakeApi, Client], master: dict[str, Any] | None, shown: str
) -> None:
    """`status` says so first; a process without a master is no trouble."""
    fake, client = api
    told = dict(REPLIES["GET /api/ngxstream/1/workers"])
    del told["master"]
    fake.reply("GET /api/ngxstream/1/workers", told if master is None else
               {**told, "master": master})
    text, _ = run(client, "status")
    assert shown in text
    assert text.startswith("the master") == ("GONE" in shown)


def test_a_node_that_drains_gets_no_clients(api: tuple[FakeApi, Client]) -> None:
    """`status` says so, and nothing of a reload that went well."""
    fake, client = api
    told = REPLIES["GET /api/ngxstream/1/reloads"]
    went_well = {**told["reloads"][0], "verdict": "ok", "message": ""}
    fake.reply("GET /api/ngxstream/1/reloads", {**told, "reloads": [went_well, *told["reloads"]]})
    fake.reply("GET /api/ngxstream/1/node", {"draining": True, "since": 1})
    text, value = run(client, "status")
    assert text.startswith("this node DRAINS: /healthz asks for no new clients\n")
    assert "FAILED" not in text
    assert value["draining"]
    assert went_well == value["last_load"]


def test_an_empty_group_is_not_well(api: tuple[FakeApi, Client]) -> None:
    """Its sessions are refused, so `status` names it; one that nobody changed may have no peers."""
    fake, client = api
    group = {**REPLIES["GET /api/9/stream/upstreams"]["u"], "peers": []}
    fake.reply("GET /api/9/stream/upstreams", {"u": group})
    text, value = run(client, "status")
    assert "all peers are up" not in text
    assert [("u", "-", "no servers")] == value["peers_not_up"]


def test_a_pair_that_is_not_there_is_added(api: tuple[FakeApi, Client]) -> None:
    """`keyval set` changes or adds."""
    fake, client = api
    error = {"error": {"status": 404, "text": "no such key", "code": "KeyvalKeyNotFound"}}
    fake.reply("PATCH /api/9/stream/keyvals/z", error, 404)
    fake.reply("POST /api/9/stream/keyvals/z", b"", 201)
    run(client, "keyval", "set", "z", "k", "v")
    assert {"k": "v"} == fake.requests[-1][3]


@pytest.mark.parametrize(
    ("words", "text", "code"),
    [
        ("drain u 10.0.0.2:53", "more than once", REFUSED),
        ("drain u 10.0.0.9:53", "no server", REFUSED),
        ("kill", "ids, a filter, or --all", USAGE),
        ("kill 1-1 --protocol udp", "not both", USAGE),
        ("kill 1-1 --all", "not both", USAGE),
        ("keyval clear z a", "clear takes nothing but a zone", USAGE),
        ("keyval list z a", "list takes nothing but a zone", USAGE),
        ("keyval del z a v", "del takes nothing but a key", USAGE),
        ("keyval get z a --expire 5s", "get takes no --expire", USAGE),
        ("keyval get z", "wants a key$", USAGE),
        ("keyval add z k v --expire soon", "no time", USAGE),
        ("keyval add z k v --expire 0", "no time", USAGE),
        ("keyval add z k", "wants a key and a value", USAGE),
    ],
)
def test_what_is_not_clear_is_not_done(
    api: tuple[FakeApi, Client], words: str, text: str, code: int
) -> None:
    """Nothing is changed when a command does not say what."""
    fake, client = api
    with pytest.raises(CtlError, match=text) as raised:
        run(client, *words.split())
    assert code == raised.value.code
    assert [] == [one for one in fake.requests if not one[0].startswith("GET ")]


def test_new_lines_of_the_log_follow(
    api: tuple[FakeApi, Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each line is said once, also where two have one time."""
    fake, client = api
    monkeypatch.setattr(commands, "FOLLOW_S", 0.0)
    args = main.parser().parse_args(["log", "-f"])
    follow = commands.follow(client, args)
    first = {"time": "T", "level": "error", "pid": 1, "connection": None, "text": "a"}
    fake.reply("GET /api/ngxstream/1/log", {"lines": [first]})
    assert "T [error] 1: a" == next(follow)[0]
    fake.reply("GET /api/ngxstream/1/log", {"lines": [first, {**first, "text": "b"}]})
    assert "T [error] 1: b" == next(follow)[0]
    assert "since=T" in fake.requests[-1][1]
