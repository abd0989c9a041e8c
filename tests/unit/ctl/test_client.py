"""The client of the API: addresses, replies, refusals."""

import base64
import socket
import threading
from pathlib import Path

import pytest

from ngxstream.ctl.client import (
    FORBIDDEN,
    REFUSED,
    UNREACHABLE,
    USAGE,
    Client,
    CtlError,
    segment,
)
from tests.support.fake_api import fake_api


def test_json_is_decoded() -> None:
    """A path below the prefix gives what its JSON says; arguments are escaped, empty ones left."""
    with fake_api() as (api, url):
        api.reply("GET /api/9/nginx", {"pid": 1})
        with Client.of(url) as client:
            assert {"pid": 1} == client.get("/9/nginx", a="b c", empty="")
        assert "a=b+c" == api.requests[0][1]


def test_a_unix_socket_and_a_prefix_can_be_named(tmp_path: Path) -> None:
    """unix:PATH:/PREFIX asks there."""
    with fake_api(tmp_path / "api.sock") as (api, url):
        api.reply("GET /status/9/nginx", [])
        with Client.of(f"{url}:/status/") as client:
            assert [] == client.get("/9/nginx")


def test_a_path_is_escaped() -> None:
    """Names of zones may have any characters."""
    with fake_api() as (api, url):
        api.reply("GET /api/9/a%20b%C3%A4%3F%2F%25", 1)
        with Client.of(url) as client:
            assert 1 == client.get(f"/9/{segment('a bä?/%')}")


def test_who_asks_is_named() -> None:
    """Name and password go as basic authentication, from the URL as well."""
    with fake_api() as (api, url):
        api.reply("GET /api/x", 1)
        with Client.of(url, "me:secret") as client:
            client.get("/x")
        with Client.of(url.replace("//", "//you:p%40ss@")) as client:
            client.get("/x")
        sent = [one[2]["Authorization"].removeprefix("Basic ") for one in api.requests]
        assert [b"me:secret", b"you:p@ss"] == [base64.b64decode(one) for one in sent]


@pytest.mark.parametrize(
    ("status", "code", "text", "exit_code"),
    [
        (404, "UpstreamNotFound", "upstream not found", REFUSED),
        (409, "EntryExists", "entry exists", REFUSED),
        (401, "Unauthorized", "name the user by --user", FORBIDDEN),
        (405, "MethodDisabled", "wants `api write=on;`", FORBIDDEN),
        (400, "UpstreamStatic", "has no `zone`", REFUSED),
    ],
)
def test_a_refusal_is_told(status: int, code: str, text: str, exit_code: int) -> None:
    """The API's own words and its code; the exit code says what kind it is."""
    with fake_api() as (api, url):
        error = {"error": {"status": status, "text": text, "code": code}}
        api.reply("GET /api/x", error, status)
        told = pytest.raises(CtlError, match=f"{text}.*{code}")
        with Client.of(url) as client, told as raised:
            client.get("/x")
        assert exit_code == raised.value.code


def test_a_wrong_password_is_told() -> None:
    """Not as if none had been given."""
    with fake_api() as (api, url):
        error = {"error": {"status": 401, "text": "no", "code": "Unauthorized"}}
        api.reply("GET /api/x", error, 401)
        told = pytest.raises(CtlError, match="wrong user or password")
        with Client.of(url, "me:secret") as client, told:
            client.get("/x")


def test_who_has_no_api_is_told() -> None:
    """As nobody who answers."""
    with fake_api() as (api, url):
        api.reply("GET /api/x", b"<html>", 404)
        told = pytest.raises(CtlError, match=r"HTTP 404: is it the API\?")
        with Client.of(url) as client, told as raised:
            client.get("/x")
        assert UNREACHABLE == raised.value.code


@pytest.mark.parametrize("body", [b"<html>", b"", b'{"error": 1}', b"[1]"])
def test_a_refusal_by_something_else_is_told(body: bytes) -> None:
    """What is no API's error gives its status."""
    with fake_api() as (api, url):
        api.reply("GET /api/x", body, 502)
        with Client.of(url) as client, pytest.raises(CtlError, match="HTTP 502"):
            client.get("/x")


def test_a_connection_that_was_closed_meanwhile_is_made_anew() -> None:
    """A reload ends idle ones; only what changes nothing is asked again."""
    with socket.create_server(("127.0.0.1", 0)) as sock:

        def answer_once_each() -> None:
            for _ in range(3):
                with sock.accept()[0] as c:
                    c.recv(4096)
                    c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n7")

        thread = threading.Thread(target=answer_once_each)
        thread.start()
        with Client.of(f"127.0.0.1:{sock.getsockname()[1]}") as client:
            assert [7, 7] == [client.get("/x") for _ in range(2)]
            with pytest.raises(CtlError) as raised:
                client.request("POST", "/x")
            assert UNREACHABLE == raised.value.code
            assert 7 == client.get("/x")
        thread.join()


@pytest.mark.parametrize("url", ["a..b:80", "http://" + "a" * 70 + ".b"])
def test_what_is_no_host_name_is_told(url: str) -> None:
    """Some names can not even be asked for."""
    with pytest.raises(CtlError) as raised:
        Client.of(url).get("/x")
    assert UNREACHABLE == raised.value.code


def test_what_is_no_json_is_no_api() -> None:
    """A web server in the API's place is told as such."""
    with fake_api() as (api, url):
        api.reply("GET /api/x", b"<html>")
        told = pytest.raises(CtlError, match="did not answer in JSON")
        with Client.of(url) as client, told as raised:
            client.get("/x")
        assert UNREACHABLE == raised.value.code


def test_nobody_there_is_told(tmp_path: Path) -> None:
    """A refused connection and a missing socket end with their reason, not with a traceback."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        for url in (f"127.0.0.1:{port}", f"unix:{tmp_path}/none"):
            with pytest.raises(CtlError) as raised:
                Client.of(url).get("/x")
            assert UNREACHABLE == raised.value.code


@pytest.mark.parametrize("url", ["ftp://a", "http://", "http://a:b", "http://[::1"])
def test_what_is_no_url_is_told(url: str) -> None:
    """The command line is to blame."""
    with pytest.raises(CtlError) as raised:
        Client.of(url)
    assert USAGE == raised.value.code
