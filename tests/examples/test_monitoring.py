"""docs/monitoring.md and what it names: the alerts, the dashboard, the commands."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ngxstream.ctl import main
from tests.support import clients, tools
from tests.support.proxies import ROOT, Ngxstream

PAGE = ROOT / "docs" / "monitoring.md"
DASHBOARD = json.loads((ROOT / "conf" / "grafana-dashboard.json").read_text())
ALERTS = ROOT / "conf" / "prometheus-alerts.yml"
NAME = re.compile(r"\b(?:nginxplus|ngxstream)_[a-z0-9_]+")


def expressions(value: Any) -> list[str]:
    """Return every PromQL expression of the dashboard."""
    if isinstance(value, dict):
        own = [value["expr"]] if "expr" in value else []
        return own + [one for inner in value.values() for one in expressions(inner)]
    return [one for inner in value for one in expressions(inner)] if isinstance(value, list) else []


def fill(expression: str) -> str:
    """Put something in the place of Grafana's variables."""
    return re.sub(r"\$[a-z_]+", ".*", expression.replace("$__rate_interval", "1m"))


def test_what_is_drawn_and_what_alerts_is_there(tmp_path: Path) -> None:
    """Each metric of the dashboard and of the alerts is one that the program has."""
    wanted = {one for expression in expressions(DASHBOARD) for one in NAME.findall(expression)}
    wanted |= set(NAME.findall(json.dumps(DASHBOARD["templating"])))
    wanted |= set(NAME.findall(ALERTS.read_text()))
    conf = """events {} stream {
        upstream group { zone group 64k; server 127.0.0.1:1; }
        server { listen 127.0.0.1:@main@; proxy_pass group; }
        server { listen 127.0.0.1:@api@; api; } }"""
    with Ngxstream(conf, tmp_path) as program:
        request = b"GET /metrics HTTP/1.0\r\n\r\n"
        text = clients.tcp_exchange(program.address("api"), request).decode()
    known = set(re.findall(r"(?m)^# TYPE (\S+)", text))
    histograms = set(re.findall(r"(?m)^# TYPE (\S+) histogram", text))
    known |= {f"{name}_{end}" for name in histograms for end in ("bucket", "sum", "count")}
    assert set() == wanted - known
    assert 20 < len(wanted)


def test_prometheus_takes_the_alerts_and_each_expression(tmp_path: Path) -> None:
    """promtool finds nothing wrong with any of them."""
    tools.require("promtool")
    rules = [{"record": f"r{n}", "expr": fill(one)} for n, one in enumerate(expressions(DASHBOARD))]
    drawn = tmp_path / "drawn.yml"
    drawn.write_text(json.dumps({"groups": [{"name": "drawn", "rules": rules}]}))
    for command, file in (("rules", ALERTS), ("rules", drawn),
                          ("config", ROOT / "conf" / "prometheus.yml")):
        done = subprocess.run(
            ["promtool", "check", command, file], capture_output=True, text=True, check=False
        )
        assert (0, "SUCCESS" in done.stdout) == (done.returncode, True), done.stdout + done.stderr


def test_panels_do_not_overlap() -> None:
    """Each panel of the dashboard has a place of its own, 24 columns wide."""
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                 for y in range(place["y"], place["y"] + place["h"])}
        assert set() == cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


COMMANDS = re.findall(r"(?m)^ngxstreamctl ([^#\n]+)", PAGE.read_text())


@pytest.mark.parametrize("words", [one.split() for one in COMMANDS], ids=COMMANDS)
def test_a_command_of_the_page_is_one(words: list[str]) -> None:
    """The parser takes it as it is written."""
    main.parser().parse_args(words)
