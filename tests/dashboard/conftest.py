"""Fixtures of the tests of the live page.

- ``browser``  one for all tests of a file
- ``api``      a made-up API that serves an example (tests/support/dashboard_model.py)
- ``opened``   opens its page; nothing may go wrong in any page until the end of the test
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.browser import Browser
from tests.support.dashboard import LivePage
from tests.support.dashboard_api import FAST, FakeApi
from tests.support.dashboard_model import example

Opened = Callable[..., LivePage]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Give a running browser."""
    with Browser(tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest.fixture
def api() -> Iterator[FakeApi]:
    """Give an API whose time moves on by a second with each round of the page."""
    with FakeApi(example(), steps=True) as serving:
        yield serving


@pytest.fixture
def opened(browser: Browser, api: FakeApi) -> Iterator[Opened]:
    """Give a function that opens the page, in which a second takes some milliseconds."""
    pages: list[LivePage] = []

    def open_page(**options: Any) -> LivePage:
        live = LivePage(browser.page(api.url, script=FAST, **options))
        pages.append(live)
        live.page.wait("document.querySelector('#band').dataset.kind !== 'off'")
        return live

    yield open_page
    for live in pages:
        live.page.close()
    assert [] == [wrong for live in pages for wrong in live.page.wrong]
