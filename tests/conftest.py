"""Fixtures of all tests; what they hand out lives in tests.support.

- ``proxy``       runs a configuration; the test is run once on nginx and once on ngxstream
- ``ngxstream``   the same on ngxstream alone
- ``both``        runs one configuration on both programs side by side and gives the pair
- ``backends``    starts TCP and UDP backends that end with the test
- ``namespaces``  network namespaces that end with the test
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.support import netns, proxies
from tests.support.backends import TcpBackend, UdpBackend

# Other programs share the machine: an example that takes long says nothing about the code.
settings.register_profile(
    "ngxstream", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ngxstream"))


class ProxyFactory:
    """Starts instances of one program for a test; all are stopped and judged at its end."""

    def __init__(self, program: type[proxies.Proxy], folder: Path) -> None:
        """Start none yet."""
        self.program = program
        self.name = program.name
        self._folder = folder
        self._made: list[proxies.Proxy] = []

    def __call__(self, conf_text: str, *, start: bool = True, **options: Any) -> proxies.Proxy:
        """Return a running instance; options are those of proxies.Proxy."""
        made = self.program(conf_text, self._folder, **options)
        self._made.append(made)
        return made.start() if start else made

    def finish(self) -> None:
        """Stop all; then fail on alerts and tracebacks nobody expected."""
        for made in self._made:
            if made.is_running():
                made.stop()
            made.kill()
        for made in self._made:
            made.assert_healthy()


@pytest.fixture(params=list(proxies.PROGRAMS))
def proxy(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ProxyFactory]:
    """Give a factory ``proxy(conf_text)``; the test runs once per program (differential test)."""
    factory = ProxyFactory(proxies.PROGRAMS[request.param], tmp_path)
    yield factory
    factory.finish()


@pytest.fixture
def ngxstream(tmp_path: Path) -> Iterator[ProxyFactory]:
    """Give a factory ``ngxstream(conf_text)`` of ngxstream alone."""
    factory = ProxyFactory(proxies.Ngxstream, tmp_path)
    yield factory
    factory.finish()


Pair = tuple[proxies.Proxy, proxies.Proxy]


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Callable[..., Pair]]:
    """Give ``both(conf_text)``: the pair (nginx, ngxstream), running the same text.

    Ports that the programs bind are written ``@name@``; each instance has its own.
    """
    factories = [ProxyFactory(program, tmp_path) for program in proxies.PROGRAMS.values()]

    def start(conf_text: str, **options: Any) -> Pair:
        nginx, ours = (factory(conf_text, **options) for factory in factories)
        return nginx, ours

    yield start
    for factory in factories:
        factory.finish()


class BackendFactory:
    """Starts backends for a test; all are closed at its end."""

    def __init__(self) -> None:
        """Start none yet."""
        self._made: list[TcpBackend | UdpBackend] = []

    def tcp(self, *args: Any, **options: Any) -> TcpBackend:
        """Return a serving TcpBackend made with these arguments."""
        made = TcpBackend(*args, **options)
        self._made.append(made)
        return made

    def udp(self, *args: Any, **options: Any) -> UdpBackend:
        """Return a serving UdpBackend made with these arguments."""
        made = UdpBackend(*args, **options)
        self._made.append(made)
        return made

    def finish(self) -> None:
        """Close all."""
        for made in self._made:
            made.close()


@pytest.fixture
def backends() -> Iterator[BackendFactory]:
    """Give ``backends.tcp(script)`` and ``backends.udp(answer)``."""
    factory = BackendFactory()
    yield factory
    factory.finish()


@pytest.fixture
def namespaces() -> Iterator[netns.Namespaces]:
    """Give a set of network namespaces, removed after the test."""
    with netns.Namespaces() as made:
        yield made
