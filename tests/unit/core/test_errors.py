"""The error tree: texts as nginx prints them, and who is to blame."""

import errno

import pytest

from ngxstream.core import errors


def test_an_errno_is_spelled_as_nginx_does() -> None:
    """Number and text stand in parentheses."""
    assert "(111: Connection refused)" == errors.strerror(errno.ECONNREFUSED)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (errors.ConfError("bad"), "bad"),
        (errors.ConfError("bad", "/f", 3), "bad in /f:3"),
        (errors.ConfError("bad", errors.COMMAND_LINE), "bad in command line"),
        (errors.ConfError("bad", errors.COMMAND_LINE, 0), "bad in command line"),
        (
            errors.ConfError('open() "x" failed', "/f", 3, errno=2),
            'open() "x" failed (2: No such file or directory) in /f:3',
        ),
        (errors.ConfError("x", errno=PermissionError(13, "no")), "x (13: Permission denied)"),
        (
            errors.PeerError("connect() failed", errno=111),
            "connect() failed (111: Connection refused)",
        ),
        (errors.NoLivePeers(), "no live upstreams"),
    ],
)
def test_the_text_is_nginx_s(error: errors.NgxError, text: str) -> None:
    """Errno and place follow the message; a class without words of its own has its docstring."""
    assert text == str(error)


def test_a_place_is_given_once() -> None:
    """The first place named is the one that counts; an error without one never gets one."""
    error = errors.ConfError("bad", errno=2).at("/f", 3)
    assert "bad (2: No such file or directory) in /f:3" == str(error)
    assert error is error.at("/g", 4)
    error = errors.ConfError("bad")
    error.level = "crit"
    assert "crit" == error.at("/f", 3).level
    assert "bad" == str(errors.UnplacedError("bad").at("/f", 3))


def test_a_configuration_message_has_nginx_s_room() -> None:
    """A message ends after 1024 bytes, the place not counted, whatever its characters."""
    assert "x" * 1024 + " in /f:1" == str(errors.ConfError("x" * 2000, "/f", 1))
    whole = "é" * 512
    assert whole == str(errors.ConfError(whole + "é"))
    cut = str(errors.ConfError("x" + "é" * 600))
    assert "x" + "é" * 511 + "\udcc3" == cut
    long = str(errors.ConfError("x" * 2000, errno=2))
    assert "x" * 974 + "... (2: No such file or directory)" == long


@pytest.mark.parametrize(
    ("kind", "level"),
    [
        (errors.ConfError, "emerg"),
        (errors.ListenError, "emerg"),
        (errors.PeerError, "error"),
        (errors.NoLivePeers, "error"),
        (errors.InternalError, "alert"),
    ],
)
def test_the_class_of_an_error_says_how_it_is_logged(
    kind: type[errors.NgxError], level: str
) -> None:
    """What the configuration did ends the start; a fault of ours is an [alert], a peer's is not."""
    assert level == kind("x").level
