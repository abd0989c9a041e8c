"""What is served besides data."""

import base64
import hashlib
import re

import pytest

from tests.support import http_replies as h
from tests.support.in_process import InProcess


@pytest.mark.parametrize("path", ["/", "/dashboard.html"])
def test_the_page_is_served(path: str) -> None:
    """A file of the package, as HTML."""
    with InProcess(h.CONF % "api;") as served:
        got = h.ask(served, path)
        assert (200, "text/html; charset=utf-8") == (got.status, got.headers["content-type"])
        assert got.body.lower().startswith(b"<!doctype html>")


@pytest.mark.parametrize(("words", "prefix"), [("api;", "/api"), ("api prefix=/x/y;", "/x/y")])
def test_the_page_is_told_where_the_api_is(words: str, prefix: str) -> None:
    """The prefix stands in it, once."""
    with InProcess(h.CONF % words) as served:
        body = h.ask(served, "/").body.decode()
        assert f'<meta name="ngxstream-prefix" content="{prefix}">' in body
        assert "__NGXSTREAM_PREFIX__" not in body


def test_nothing_runs_in_the_page_but_its_own_script() -> None:
    """The policy allows one style and one script, by the hashes of what is served."""
    with InProcess(h.CONF % "api;") as served:
        got = h.ask(served, "/")
    policy = got.headers["content-security-policy"]
    for element in ("style", "script"):
        (inner,) = re.findall(rb"<%b>(.*?)</%b>" % ((element.encode(),) * 2), got.body, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inner).digest()).decode()
        assert f"{element}-src 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy


def test_a_health_check_gets_a_word() -> None:
    """Text, and no more."""
    with InProcess(h.CONF % "api;") as served:
        got = h.ask(served, "/healthz")
        assert (200, b"ok") == (got.status, got.body)
        assert got.headers["content-type"].startswith("text/plain")
