"""Basic authentication: who is let in, what is remembered, what is logged."""

import base64
import subprocess
from pathlib import Path

import pytest

from ngxstream.event import offload
from ngxstream.modules.api import states, users
from tests.support import http_replies as h
from tests.support.in_process import InProcess, build


def basic(text: str) -> str:
    """Return the header line of a user and password."""
    return "Basic " + base64.b64encode(text.encode("utf-8", "surrogateescape")).decode()


def serving(tmp_path: Path, *lines: str, directive: str = "api;") -> InProcess:
    """Serve with a file of these users."""
    file = tmp_path / "users"
    file.write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    return InProcess(h.CONF % f"api_user_file {file}; {directive}")


def logged(served: InProcess) -> list[str]:
    """Return what was logged at error."""
    texts = [text for level, text in served.target.lines if level == "error"]
    return [text.partition(" ")[2].partition(" while ")[0] for text in texts]


LINES = (
    "# people", "", "alice:{PLAIN}secret:a comment", "bob:$apr1$r31.....$HqJZimcKQFAMYayBlzkrA/",
)  # fmt: skip


@pytest.mark.effect("api_user_file")
def test_who_proves_a_password_is_served(tmp_path: Path) -> None:
    """Everybody else is asked for one; a health check needs none."""
    with serving(tmp_path, *LINES) as served:
        for who in ("alice:secret", "bob:myPassword"):
            assert 200 == h.ask(served, "/api", Authorization=basic(who)).status
        for header in (basic("alice:Secret"), basic("carol:secret"), basic("alice:"),
                       basic(":secret"), "Basic x", "Basic", "Bearer secret", basic("alice")):
            got = h.ask(served, "/api", Authorization=header)
            assert (401, "Unauthorized") == (got.status, got.code)
        got = h.ask(served, "/none")
        assert (401, 'Basic realm="ngxstream", charset="UTF-8"') == (
            got.status, got.headers["www-authenticate"]
        )
        for path in ("/healthz", "/healthz/"):
            assert 200 == h.ask(served, path).status


@pytest.mark.effect("api_user_file")
def test_a_server_may_do_without(tmp_path: Path) -> None:
    """`off` takes back what the block says, and what is nearer counts."""
    (tmp_path / "a").write_text("alice:{PLAIN}a")
    (tmp_path / "b").write_text("alice:{PLAIN}b")
    conf = (
        f"stream {{ api_user_file {tmp_path}/a; server {{ listen 127.0.0.1:@a@; api; }} "
        f"server {{ listen 127.0.0.1:@b@; api; api_user_file {tmp_path}/b; }} "
        "server { listen 127.0.0.1:@c@; api; api_user_file off; } }"
    )
    with InProcess(conf) as served:
        header = basic("alice:a")
        found = [h.ask(served, "/api", number=n, Authorization=header).status for n in range(3)]
        assert [200, 401, 200] == found


def test_a_password_that_takes_long_is_verified_beside_the_loop(tmp_path: Path) -> None:
    """And remembered: the thread is asked once for what it said, good or bad."""
    made = subprocess.run(["openssl", "passwd", "-6", "secret"], capture_output=True, text=True,
                          check=True).stdout
    with serving(tmp_path, f"alice:{made}") as served:
        for who, status in (("alice:secret", 200), ("alice:x", 401), ("carol:secret", 401)):
            for _ in range(2):
                assert status == h.ask(served, "/api", Authorization=basic(who)).status
        verifier = served.loop.get(users.Verifier)
        assert {True: 1, False: 2} == {fits: len(one) for fits, one in verifier._known.items()}
        served.loop.get(users.Verifier).offload.close()


def test_what_is_remembered_is_forgotten(tmp_path: Path) -> None:
    """After a time, and when there is too much."""
    with serving(tmp_path, *LINES) as served:
        verifier = served.loop.get(users.Verifier)
        known = verifier._known[True]
        for n in range(users.KEEP + 10):
            verifier._keep(b"%d" % n, True)
        assert users.KEEP == len(known)
        assert b"0" not in known
        h.ask(served, "/api", Authorization=basic("alice:secret"))
        mark, until = list(known.items())[-1]
        assert until <= served.loop.now_ms + users.KEEP_MS
        known[mark] = served.loop.now_ms  # it is too late to count
        verifier._keep(mark, False)
        assert 401 == h.ask(served, "/api", Authorization=basic("alice:secret")).status


def test_who_guesses_keeps_nobody_out_who_is_in(tmp_path: Path) -> None:
    """What was proved is kept for as long as it is used, whatever fails meanwhile."""
    with serving(tmp_path, *LINES) as served:
        verifier = served.loop.get(users.Verifier)
        h.ask(served, "/api", Authorization=basic("alice:secret"))
        (mark,) = verifier._known[True]
        for n in range(2 * users.KEEP):
            verifier._keep(b"%d" % n, False)
        served.loop.now_ms += users.KEEP_MS - 1000
        h.ask(served, "/api", Authorization=basic("alice:secret"))
        assert served.loop.now_ms + users.KEEP_MS - 1000 <= verifier._known[True][mark]


def test_lines_end_as_in_nginx(tmp_path: Path) -> None:
    """With LF, or CR LF; what else a text may call the end of a line is of a password."""
    with serving(tmp_path, "alice:{PLAIN}a\u2028b\x0bc\r", "bob:{PLAIN}b\r", "\r") as served:
        for who in ("alice:a\u2028b\x0bc", "bob:b"):
            assert 200 == h.ask(served, "/api", Authorization=basic(who)).status


def test_too_many_at_once_are_told_to_come_again(tmp_path: Path) -> None:
    """The thread has a bounded queue."""
    made = subprocess.run(["openssl", "passwd", "-6", "secret"], capture_output=True, text=True,
                          check=True).stdout
    with serving(tmp_path, f"alice:{made}") as served:
        thread = served.loop.get(users.Verifier).offload
        thread._waiting.extend([offload._Job(int, print)] * offload.MAX_WAITING)
        got = h.ask(served, "/api", Authorization=basic("alice:secret"))
        assert (503, "1") == (got.status, got.headers["retry-after"])
        thread._waiting.clear()


def test_who_leaves_while_his_password_is_verified(tmp_path: Path) -> None:
    """Nothing happens when the result comes."""
    made = subprocess.run(["openssl", "passwd", "-6", "secret"], capture_output=True, text=True,
                          check=True).stdout
    with serving(tmp_path, f"alice:{made}") as served:
        client = served.connect()
        client.sendall(h.request("/api", Authorization=basic("alice:secret")))
        served.turn_until(lambda: served.sessions and served.sessions[0].content and
                          served.sessions[0].content.state == states.CHECKING)
        served.sessions[0].finalize(200)
        verifier = served.loop.get(users.Verifier)
        served.turn_until(lambda: verifier._known)
        served.loop.get(users.Verifier).offload.close()
        assert not [one for one in served.target.lines if one[0] == "alert"]


def test_failures_are_logged_and_forge_nothing(tmp_path: Path) -> None:
    """With nginx's words; of the name what is no letter is escaped."""
    with serving(tmp_path, *LINES) as served:
        for who in ("alice:x", "carol:x", 'a", client 1.2.3.4\n\x1b:x', "x"):
            h.ask(served, "/api", Authorization=basic(who))
    path = tmp_path / "users"
    assert [
        'user "alice": password mismatch', f'user "carol" was not found in "{path}"',
        f'user "a\\x22, client 1.2.3.4\\x0A\\x1B" was not found in "{path}"',
        "client sent no credentials of basic authentication",
    ] == logged(served)


@pytest.mark.refusal("api_user_file")
def test_a_user_file_that_guards_nothing_is_refused(tmp_path: Path) -> None:
    """A server without `api` asks nobody for a password; that of the block may be for others."""
    (tmp_path / "users").write_text("a:{PLAIN}b")
    line = f"api_user_file {tmp_path}/users;"
    text = "stream {{ {} server {{ listen 127.0.0.1:1; proxy_pass 127.0.0.1:2; {} }} }}"
    assert (
        '"api_user_file" requires "api" in the same server in /p/conf/nginx.conf:1'
        == build(text.format("", line)).error
    )
    assert ["", ""] == [build(text.format(*where)).error
                        for where in ((line, ""), ("", "api_user_file off;"))]


@pytest.mark.refusal("api_user_file")
@pytest.mark.parametrize(
    ("text", "error"),
    [
        (b"alice", "no user and password in {}:1"), (b"\n:x", "no user and password in {}:2"),
        (b"alice:secret", "a password has an unknown form in {}:1"),
        (b"# x\nalice:{SHA}x", "a password is not base64 in {}:2"),
        (b"alice:$2b$20$" + b"b" * 53, "a password takes too long to verify in {}:1"),
        (b"a" * (users.MAX_FILE + 1), '"{}" is too large'),
        (b"".join(b"u%d:{PLAIN}x\n" % n for n in range(users.MAX_USERS + 1)),
         "too many users in {}"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, text: bytes, error: str) -> None:
    """With the line, and without the password."""
    path = tmp_path / "users"
    path.write_bytes(text)
    conf = f"stream {{ api_user_file {path}; server {{ listen 127.0.0.1:1; api; }} }}"
    assert f"{error.format(path)} in /p/conf/nginx.conf:1" == build(conf).error


@pytest.mark.refusal("api_user_file")
def test_a_file_that_is_not_there_is_refused() -> None:
    """And so is a second one."""
    conf = "stream { api_user_file none; server { listen 127.0.0.1:1; api; } }"
    assert (
        'open() "/p/conf/none" failed (2: No such file or directory) in /p/conf/nginx.conf:1'
        == build(conf).error
    )
    conf = "stream { api_user_file off; api_user_file off; }"
    assert '"api_user_file" directive is duplicate in /p/conf/nginx.conf:1' == build(conf).error


def test_a_file_without_users_lets_nobody_in(tmp_path: Path) -> None:
    """It is no mistake: all were taken out."""
    with serving(tmp_path, "# nobody") as served:
        assert 401 == h.ask(served, "/api", Authorization=basic("alice:x")).status


def test_what_was_proved_is_of_one_name_and_one_password(tmp_path: Path) -> None:
    """Another cut through the same bytes is another user; of two lines the first counts."""
    with serving(tmp_path, "alice:{PLAIN}secret", "alice:{PLAIN}other") as served:
        for who, status in (("alice:secret", 200), ("alic:esecret", 401), ("alices:ecret", 401),
                            ("alice:other", 401)):
            assert status == h.ask(served, "/api", Authorization=basic(who)).status
        for scheme in ("Bearer", "Digest", "", "Basic!"):
            other = basic("alice:secret").replace("Basic", scheme, 1)
            assert 401 == h.ask(served, "/api", Authorization=other).status


def test_what_is_not_base64_is_nobody() -> None:
    """Other characters are not passed over; a user has a name."""
    assert (b"a", b"b") == users.parse("basic YTpi")
    for text in ("YT*pi", "YTpi YTpi", "OmI=", "YQ=="):
        assert users.parse(f"Basic {text}") is None
