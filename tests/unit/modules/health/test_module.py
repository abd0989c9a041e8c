"""Health checks as the API and Prometheus show them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from ngxstream.stream.api import Family
from tests.support.agents import Agent
from tests.support.checked import Checked

API = "server { listen 127.0.0.1:3; api; }"


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Checked]:
    """Give a worker."""
    with Checked(monkeypatch) as made:
        yield made


def families(one: Checked) -> dict[str, dict[str, float]]:
    """Return all samples, by family and labels."""
    found: dict[str, dict[str, float]] = {}
    for module in one.now.stream.modules:
        if module.metrics is not None:
            for family in module.metrics(one.loop, one.now.stream):
                if isinstance(family, Family):
                    found[family.name] = dict(family.samples)
    return found


def serve(one: Checked, words: str) -> tuple[str, str]:
    """Serve a good and a bad server, until both were checked. Returns: their addresses"""
    good, bad = one.server(), one.server(up=False)
    one.serve(
        f"{API} upstream u {{ server {good.text}; server {bad.text}; }} server {{ "
        f"listen 127.0.0.1:2; proxy_pass u; health_check interval=1h {words}; }}"
    )
    one.until(lambda: one.checks(good) and one.checks(bad))
    return good.text, bad.text


def test_checks_are_shown(checked: Checked) -> None:
    """With the state of each server, since when it is so and for how long it was."""
    good, bad = serve(checked, "")
    status, value = checked.now.ask("GET", "/stream/upstreams/u")
    assert 200 == status
    shown = json.loads("".join(value.pieces)) if hasattr(value, "pieces") else value
    assert "zone" not in shown, "it was made for the checks"
    first, second = shown["peers"]
    assert [good, bad] == [first["server"], second["server"]]
    assert {"checks": 1, "fails": 0, "unhealthy": 0, "last_passed": True} == first["health_checks"]
    assert {"checks": 1, "fails": 1, "unhealthy": 1, "last_passed": False} == (
        second["health_checks"]
    )
    assert ["up", "unhealthy"] == [first["state"], second["state"]]
    assert "downstart" not in first
    assert second["downstart"].startswith(time.strftime("%Y-%m-%dT%H:", time.gmtime()))
    assert 0 == first["downtime"]


def test_prometheus_is_told(checked: Checked) -> None:
    """By the names of NGINX Plus's exporter; what is ours, where it is asked for."""
    good, bad = serve(checked, "fail_open=40%")
    found = families(checked)
    labels = [f'{{upstream="u",server="{server}"}}' for server in (good, bad)]
    prefix = "nginxplus_stream_upstream_server_health_checks_"
    assert dict.fromkeys(labels, 1) == found[f"{prefix}checks"]
    for name in ("fails", "unhealthy"):
        assert [0, 1] == [found[prefix + name][label] for label in labels]
    assert {'{upstream="u"}': 1} == found["ngxstream_stream_upstream_fail_open"]


def test_how_long_checks_took_is_shown(checked: Checked) -> None:
    """By the parameters of each: in the API, and to Prometheus; a reset begins anew."""
    serve(checked, "fails=2")
    label = 'upstream="u",check="interval=1h fails=2"'
    found = families(checked)["ngxstream_stream_upstream_health_check_seconds"]
    assert 2 == found[f'_bucket{{{label},le="+Inf"}}'] == found[f"_count{{{label}}}"]
    assert 0 <= found[f"_sum{{{label}}}"] < 5
    (shown,) = checked.now.own("GET", "/upstreams")[1]["u"]["checks"]
    assert "interval=1h fails=2" == shown["check"]
    assert (2, 2) == (shown["duration_ms"]["count"], sum(shown["duration_ms"]["counts"]))
    assert 204 == checked.now.ask("DELETE", "/stream/upstreams/u")[0]
    (shown,) = checked.now.own("GET", "/upstreams")[1]["u"]["checks"]
    assert 0 == shown["duration_ms"]["count"]


def test_checks_that_run_into_their_time_are_told_of(checked: Checked) -> None:
    """They took it."""
    server = checked.server()
    server.silent = []
    checked.serve(
        f"{API} match m {{ expect x; }} upstream u {{ server {server.text}; }} server {{ listen "
        "127.0.0.1:2; proxy_pass u; health_check_timeout 3s; health_check interval=1h match=m; }"
    )
    checked.until(lambda: server.accepted)
    checked.move(3500)
    (shown,) = checked.now.own("GET", "/upstreams")[1]["u"]["checks"]
    times = shown["duration_ms"]
    assert 1 == times["counts"][times["bounds"].index(5000)]
    assert 2900 <= times["sum"] <= 3400


@pytest.mark.parametrize(("word", "state"), [("drain", "draining"), ("maint", "down")])
def test_agents_are_shown(checked: Checked, word: str, state: str) -> None:
    """What they have said: in the API, by the state of the server, and to Prometheus."""
    agents = Agent("127.0.0.1")
    agents.lines["127.0.0.1"] = word.encode() + b" 50% #a\\ \xff\n"
    checked.helpers.append(agents)
    one, two = checked.server(), checked.server()
    checked.serve(
        f"{API} upstream u {{ zone u 64k; server {one.text} weight=8; server {two.text} weight=4; "
        f"}} server {{ listen 127.0.0.1:2; proxy_pass u; health_check agent={agents.port}; }}"
    )
    checked.until(lambda: agents.asked["127.0.0.1"] == 2)
    checked.until(lambda: all(peer.state.status for peer in checked.peers().values()))
    (said,) = checked.now.own("GET", "/upstreams")[1]["u"]["peers"][0]["agents"]
    assert 0 <= said.pop("answered_ms_ago") < 5000
    assert {
        "check": f"agent={agents.port}", "last": "answered", "status": None, "admin": word,
        "weight": "50%", "max_conns": 0, "text": r"a\\ \xff", "checks": 1, "missed": 0,
    } == said
    value = checked.now.ask("GET", "/stream/upstreams/u")[1]
    shown = json.loads("".join(value.pieces))
    assert [state] * 2 == [peer["state"] for peer in shown["peers"]]
    assert {"checks": 0, "fails": 0, "unhealthy": 0} == shown["peers"][0]["health_checks"]
    found = families(checked)
    prefix = "ngxstream_stream_upstream_server_agent_"
    label = f'{{upstream="u",server="{one.text}",check="agent={agents.port}"}}'
    assert [1, 1, 0] == [
        found[prefix + name][label] for name in ("answered", "checks_total", "missed_total")
    ]
    assert [4, 2] == list(found[prefix + "weight"].values())


def test_nothing_is_told_of_what_is_not_used(checked: Checked) -> None:
    """No group has fail_open."""
    serve(checked, "")
    assert "ngxstream_stream_upstream_fail_open" not in families(checked)


def test_checks_that_no_configuration_has_are_forgotten(checked: Checked) -> None:
    """After a few of them: what was found goes to the next that has the check, refused or not."""
    serve(checked, "")
    known = checked.now.built.zones.requests["health checks"].zone
    assert known is not None
    for _ in range(5):
        checked.serve(
            f"{API} upstream u {{ server 127.0.0.1:1; }} server {{ listen 127.0.0.1:2; "
            "proxy_pass u; health_check port=7; }"
        )
    assert 1 == len(known.data.by_check)
