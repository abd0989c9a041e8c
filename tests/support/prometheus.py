"""Debian's prometheus and prometheus-nginx-exporter, as tests run them; and what they read."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support import ports, tools
from tests.support.waiting import wait_until

Series = tuple[str, frozenset[tuple[str, str]]]  # name, labels
Samples = dict[Series, float]

_LINE = re.compile(r"([A-Za-z_:][\w:]*)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def series(name: str, **labels: str) -> Series:
    """Return what a sample is known by."""
    return name, frozenset(labels.items())


def parsed(text: str) -> Samples:
    """Return the samples of a text in format 0.0.4; each stands once."""
    found: Samples = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        assert match is not None, line
        name = series(match[1], **dict(_LABEL.findall(match[2] or "")))
        assert name not in found, line
        found[name] = float(match[3])
    return found


def fetch(url: str) -> str:
    """Return what is at a URL."""
    with urllib.request.urlopen(url, timeout=10) as reply:
        assert 200 == reply.status
        return str(reply.read().decode())


def _answers(url: str) -> bool:
    try:
        fetch(url)
    except (OSError, urllib.error.URLError):
        return False
    return True


@contextmanager
def _running(words: list[str], ready: str, log: Path) -> Iterator[None]:
    with log.open("w") as errors:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)
    try:
        wait_until(lambda: _answers(ready), every=0.05, what=f"{words[0]} serves")
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def exporter(uri: str, folder: Path, *options: str) -> Iterator[str]:
    """Run the exporter; give the URL of its metrics. Args: uri: what it scrapes"""
    program = tools.require("prometheus-nginx-exporter")
    port = ports.free_tcp_port()
    words = [program, *options, "-nginx.scrape-uri", uri, "-web.listen-address",
             f"127.0.0.1:{port}"]
    url = f"http://127.0.0.1:{port}/metrics"
    with _running(words, url, folder / f"exporter-{port}.log"):
        yield url


class Prometheus:
    """A server that scrapes one target some times a second."""

    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, expression: str) -> Samples:
        """Return the latest samples, without the labels of the target."""
        query = urllib.parse.urlencode({"query": expression})
        reply = json.loads(fetch(f"{self.url}/api/v1/query?{query}"))
        found: Samples = {}
        for one in reply["data"]["result"]:
            labels = {name: text for name, text in one["metric"].items()
                      if name not in ("job", "instance")}
            found[series(labels.pop("__name__"), **labels)] = float(one["value"][1])
        return found

    def alerts(self) -> list[dict[str, Any]]:
        """Return the labels of alerts that fire."""
        reply = json.loads(fetch(f"{self.url}/api/v1/alerts"))
        return [one["labels"] for one in reply["data"]["alerts"] if one["state"] == "firing"]


@contextmanager
def prometheus(target: str, path: str, folder: Path, rules: str) -> Iterator[Prometheus]:
    """Run it. Args: target: host and port; rules: of alerts, in YAML"""
    program = tools.require("prometheus")
    home = folder / "prometheus"
    home.mkdir()
    (home / "rules.yml").write_text(rules)
    (home / "prometheus.yml").write_text(
        "global: {scrape_interval: 250ms, evaluation_interval: 250ms}\n"
        "rule_files: [rules.yml]\n"
        f"scrape_configs: [{{job_name: ngxstream, metrics_path: {path}, "
        f'static_configs: [{{targets: ["{target}"]}}]}}]\n'
    )
    port = ports.free_tcp_port()
    words = [program, f"--config.file={home / 'prometheus.yml'}", "--log.level=warn",
             f"--storage.tsdb.path={home / 'data'}", f"--web.listen-address=127.0.0.1:{port}"]
    url = f"http://127.0.0.1:{port}"
    with _running(words, f"{url}/-/ready", home / "log"):
        yield Prometheus(url)
