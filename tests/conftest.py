"""Fixtures of all tests; what they hand out lives in tests.support.

- ``proxy``       runs a configuration; the test is run once on nginx and once on ngxstream
- ``ngxstream``   the same on ngxstream alone
- ``same``        tells one story on both programs, one after the other, and compares the accounts
- ``both``        runs one configuration on both programs side by side and gives the pair
- ``backends``    starts TCP and UDP backends that end with the test
- ``namespaces``  network namespaces that end with the test
"""

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from ngxstream.event import loop
from tests.support import backends as backends_
from tests.support import descriptors, netns, proxies, stories
from tests.support.waiting import wait_until

# A thousand programs are started: each would compile the whole package anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# A view of a slot that outlives its turn shows itself, in every program that a test starts too.
os.environ[loop.POISON] = "1"

# Other programs share the machine: an example that takes long says nothing about the code.
# Where CI is set the examples are the same in every run: red means a change. Everywhere else each
# run looks at new ones.
settings.register_profile(
    "ngxstream",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
    derandomize=bool(os.environ.get("CI")),
)
settings.register_profile("fuzz", settings.get_profile("ngxstream"), max_examples=5000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ngxstream"))


def pytest_collection_finish() -> None:
    """Keep what was collected, and will stay, out of all later garbage collections.

    Tests ask for hundreds of them, and one takes a third of a second with 14 000 tests to look at.
    """
    gc.collect()
    gc.freeze()


FEW = 8  # a registry of ports, a library: what a file may open for all that follow


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left_open() -> Iterator[None]:
    """Fail the last test of a file whose tests leave descriptors behind."""
    before = descriptors.count()
    yield
    if descriptors.count() > before + FEW:
        gc.collect()
        wait_until(lambda: descriptors.count() <= before + FEW, what="descriptors are closed")


@pytest.fixture(params=list(proxies.PROGRAMS))
def proxy(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[proxies.ProxyFactory]:
    """Give a factory ``proxy(conf_text)``; the test runs once per program (differential test)."""
    factory = proxies.ProxyFactory(proxies.PROGRAMS[request.param], tmp_path)
    yield factory
    factory.finish()


@pytest.fixture
def ngxstream(tmp_path: Path) -> Iterator[proxies.ProxyFactory]:
    """Give a factory ``ngxstream(conf_text)`` of ngxstream alone."""
    factory = proxies.ProxyFactory(proxies.Ngxstream, tmp_path)
    yield factory
    factory.finish()


@pytest.fixture
def same(proxy: proxies.ProxyFactory, request: pytest.FixtureRequest) -> Callable[..., None]:
    """Give ``same(conf, story)``, which tells the story on one program and keeps the account.

    The fixture runs the test once per program; accounts of one test meet in the module's book.
    Options are those of Proxy.
    """
    book: dict[str, dict[str, Any]] = request.getfixturevalue("book")

    def tell(conf: str, story: stories.Story, head: str = stories.HEAD, **options: Any) -> None:
        program = proxy(head + conf + " }", **options)
        account = story(program)
        accounts = book.setdefault(request.node.name.replace(proxy.name, "*"), {})
        accounts[proxy.name] = account
        if len(accounts) == 2:
            assert accounts["nginx"] == accounts["ngxstream"]

    return tell


@pytest.fixture(scope="module")
def book() -> dict[str, dict[str, Any]]:
    """Give the accounts told so far, by test and program."""
    return {}


Pair = tuple[proxies.Proxy, proxies.Proxy]


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Callable[..., Pair]]:
    """Give ``both(conf_text)``: the pair (nginx, ngxstream), running the same text.

    Ports that the programs bind are written ``@name@``; each instance has its own.
    """
    factories = [proxies.ProxyFactory(program, tmp_path) for program in proxies.PROGRAMS.values()]

    def start(conf_text: str, **options: Any) -> Pair:
        nginx, ours = (factory(conf_text, **options) for factory in factories)
        return nginx, ours

    yield start
    for factory in factories:
        factory.finish()


@pytest.fixture
def backends() -> Iterator[backends_.BackendFactory]:
    """Give ``backends.tcp(script)`` and ``backends.udp(answer)``."""
    factory = backends_.BackendFactory()
    yield factory
    factory.finish()


@pytest.fixture
def namespaces() -> Iterator[netns.Namespaces]:
    """Give a set of network namespaces, removed after the test."""
    with netns.Namespaces() as made:
        yield made
