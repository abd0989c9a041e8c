"""Whether a host is to get new clients: by /healthz, which whoever stands before it asks."""

import json
from collections.abc import Iterator

import pytest

from ngxstream.ipc.codec import CodecError
from ngxstream.modules.api import node
from ngxstream.stream import peer_state
from ngxstream.stream.api import OWN
from tests.support import http_replies as h
from tests.support.in_process import InProcess

GROUPS = """
    upstream one { server 127.0.0.1:1; }
    upstream two { zone z 64k; server 127.0.0.1:1; server 127.0.0.1:2 backup; }
    server { listen 127.0.0.1:@one@; proxy_pass one; }
    server { listen 127.0.0.1:@two@; proxy_pass two; }
"""


@pytest.fixture
def served() -> Iterator[InProcess]:
    """Serve an API beside two groups."""
    text = (h.CONF % "api write=on;").removesuffix("}") + GROUPS + "}"
    with InProcess(text) as made:
        yield made


def healthz(served: InProcess, query: str = "") -> tuple[int, bytes]:
    """Return what /healthz answers."""
    got = h.ask(served, f"/healthz{query}")
    return got.status, got.body


def patch(served: InProcess, body: object) -> tuple[int, object]:
    """Change the state of the node."""
    got = h.ask(served, f"{OWN}/node", "PATCH", json.dumps(body).encode())
    return got.status, json.loads(got.body)


@pytest.mark.parametrize("path", ["/healthz?upstreams=one", f"{OWN}/explain?protocl=udp"])
def test_a_misspelt_argument_is_refused(served: InProcess, path: str) -> None:
    """Else a check of a group would be one of the worker alone, and always pass."""
    name = path.partition("?")[2].partition("=")[0]
    got = h.ask(served, path)
    assert (400, "BadArgument") == (got.status, got.code)
    assert f'unknown argument \\"{name}\\"'.encode() in got.body


def test_a_node_drains_until_it_is_told_not_to(served: InProcess) -> None:
    """It says since when, and logs it once."""
    assert (200, b"ok") == healthz(served)
    status, shown = patch(served, {"draining": True})
    assert 200 == status
    assert isinstance(shown, dict)
    assert shown["draining"] is True
    assert shown["since"] > 1e12
    assert (200, shown) == patch(served, {"draining": True})
    assert (503, b"draining") == healthz(served)
    assert (503, b"draining") == healthz(served, "?upstream=one")
    assert (200, {"draining": False, "since": None}) == patch(served, {"draining": False})
    assert (200, b"ok") == healthz(served)
    said = [line for _, line in served.target.lines if "this node" in line]
    assert ["this node drains: /healthz asks for no new clients",
            "this node does not drain any more"] == said


@pytest.mark.parametrize("body", [None, {}, [], {"draining": 1}, {"draining": True, "a": 1}])
def test_what_makes_no_sense_changes_nothing(served: InProcess, body: object) -> None:
    """It is refused by name."""
    status, error = patch(served, body)
    assert 400 == status
    assert "NodeConfFormatError" in str(error)
    assert (200, b"ok") == healthz(served)


def test_a_group_needs_a_server_that_may_be_used(
    served: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup will do; of several groups each; one that there is not is none."""
    for query in ("?upstream=one", "?upstream=two", "?upstream=one,two"):
        assert (200, b"ok") == healthz(served, query)
    assert (503, b"no such upstream") == healthz(served, "?upstream=one,three")
    assert (503, b"no such upstream") == healthz(served, "?upstream=")
    most = ",".join(["one"] * node.MOST)
    assert (200, b"ok") == healthz(served, f"?upstream={most}")
    assert (503, b"too many upstreams") == healthz(served, f"?upstream={most},three")
    one, two = (upstream for upstream in served.conf.upstreams if upstream.explicit)
    for tier in (one.balancer.tier, two.balancer.tier):
        for peer in tier.peers:
            peer.state.status |= peer_state.DOWN
    assert (503, b"no live upstreams in one") == healthz(served, "?upstream=one")
    assert (503, b"no live upstreams in one") == healthz(served, "?upstream=two,one,one")
    assert (503, b"no such upstream") == healthz(served, "?upstream=one,three")
    assert (200, b"ok") == healthz(served, "?upstream=two")
    assert (200, b"ok") == healthz(served)
    monkeypatch.setattr(node, "_is_served", lambda *_: False)
    assert (503, b"no live upstreams in two, one") == healthz(served, "?upstream=two,one")


def test_another_binary_goes_on_draining(served: InProcess) -> None:
    """What it is told is checked."""
    patch(served, {"draining": True})
    data = node.hand_on(served.conf)
    patch(served, {"draining": False})
    node.take_up(served.conf, data)
    assert (503, b"draining") == healthz(served)
    node.take_up(served.conf, b"")
    with pytest.raises(CodecError):
        node.take_up(served.conf, b"\xff\xff\xff")
