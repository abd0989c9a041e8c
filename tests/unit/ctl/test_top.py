"""top: rates, the page, and the terminal that is as before in the end."""

import contextlib
import os
import pty
import select
import sys
import termios
from typing import Any

import pytest

from ngxstream.ctl import top
from ngxstream.ctl.client import Client, CtlError
from tests.support.fake_api import fake_api
from tests.unit.ctl.test_commands import REPLIES, ZONE


def look(at: float, **change: Any) -> top.Look:
    """Return a look at a made-up program."""
    found = top.Look.__new__(top.Look)
    found.at = at
    found.about = {"build": "b", "generation": 1, "timestamp": "T"}
    found.connections = {"active": 4}
    found.zones = {"z": {**ZONE, **change}}
    found.groups = REPLIES["GET /api/9/stream/upstreams"]
    found.workers = REPLIES["GET /api/ngxstream/1/workers"]["workers"]
    return found


def test_rates_are_differences() -> None:
    """A counter that went back began anew: no rate is negative, the first look has none."""
    before, now = look(1.0, received=1000), look(3.0, received=9000)
    assert "4.0k" == top.rate(now, before, 9000, 1000)
    assert "0" == top.rate(now, before, 0, 1000)
    assert "-" == top.rate(now, None, 9000, None)
    assert "-" == top.rate(now, now, 1, 0)
    lines = top.page(now, before, 200, 50)
    assert "4.0k" in "".join(line for line in lines if line.startswith("z "))
    assert any(line.startswith("u ") and "10.0.0.1:53" in line for line in lines)


def test_the_page_fits_the_screen() -> None:
    """What does not fit is counted, and lines are cut."""
    lines = top.page(look(1.0), None, 20, 5)
    assert 4 == len(lines)
    assert "4 more lines" == lines[-1]
    assert 20 >= max(map(len, lines))


def test_without_a_terminal_it_says_so() -> None:
    """In a pipe there is no screen."""
    with Client.of("127.0.0.1:1") as client, pytest.raises(CtlError, match="terminal"):
        top.run(client)


@pytest.mark.parametrize("keys", [b"q", b"\x1b[Aq", b"\x03"])
def test_the_terminal_is_as_before(keys: bytes) -> None:
    """In a real terminal: q leaves, behind other keys too, and so does Ctrl-C."""
    with fake_api() as (api, url):
        for what, body in REPLIES.items():
            api.reply(what, body)
        pid, fd = pty.fork()
        if not pid:  # pragma: no cover - the child
            os.execv(sys.executable, [
                sys.executable, "-c",
                "import sys; from ngxstream.ctl import main; sys.exit(main.program())",
                "--url", url, "top",
            ])
        shown = b""
        while b"10.0.0.1:53" not in shown:
            assert select.select([fd], [], [], 20)[0], shown
            shown += os.read(fd, 65536)
        before = termios.tcgetattr(fd)
        assert not before[3] & termios.ECHO
        os.write(fd, keys)
        with contextlib.suppress(OSError):  # EIO: the other side is closed
            while select.select([fd], [], [], 20)[0]:
                shown += os.read(fd, 65536)
        after = termios.tcgetattr(fd)
        _, status = os.waitpid(pid, 0)
        os.close(fd)
        assert 0 == os.waitstatus_to_exitcode(status), shown
        assert shown.endswith(b"\x1b[?25h\x1b[?1049l")
        assert after[3] & termios.ECHO


@pytest.mark.parametrize("body", [[], {"a": []}, 7, {"z": {"processing": 1}}])
def test_a_reply_of_another_form_is_told(body: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever answers in the API's place, it is no more than a line."""
    with fake_api() as (api, url), Client.of(url) as client:
        for what, reply in REPLIES.items():
            api.reply(what, reply)
        api.reply("GET /api/9/stream/server_zones", body)
        assert ["no answer: the reply is not of the form that is expected"] == [
            line.partition(" (")[0] for line in top.look(client, None, 200, 24)[0]
        ]
