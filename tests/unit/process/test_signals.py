"""Signals by name."""

import signal

import pytest

from ngxstream.process import options, signals


@pytest.mark.parametrize(
    ("name", "number"), [("stop", 15), ("quit", 3), ("reopen", 10), ("reload", 1)]
)
def test_commands_are_nginx_s(name: str, number: int) -> None:
    """-s sends what nginx -s sends."""
    assert number == signals.COMMANDS[name]


def test_the_command_line_knows_the_same_names() -> None:
    """What options accept can be sent."""
    assert set(options.SIGNALS) == set(signals.COMMANDS)


@pytest.mark.parametrize(
    ("number", "name"), [(1, "SIGHUP"), (17, "SIGCHLD"), (29, "SIGIO"), (28, "SIGWINCH")]
)
def test_names_are_nginx_s(number: int, name: str) -> None:
    """SIGIO is not called SIGPOLL."""
    assert name == signals.name_of(number)


def test_a_signal_without_a_name_has_a_number() -> None:
    """Real-time signals have no names of their own."""
    assert f"SIG{signal.SIGRTMIN + 1}" == signals.name_of(signal.SIGRTMIN + 1)


@pytest.mark.parametrize(
    ("expected", "arguments"),
    [
        ("signal 1 (SIGHUP) received from 7, reconfiguring", (1, 7, "reconfiguring")),
        ("signal 17 (SIGCHLD) received from 29238", (17, 29238)),
        ("signal 29 (SIGIO) received", (29,)),
        ("signal 3 (SIGQUIT) received, shutting down", (3, None, "shutting down")),
        ("signal 14 (SIGALRM) received", (14, 0)),
    ],
)
def test_the_log_line_is_nginx_s(
    expected: str, arguments: tuple[int, int | None, str]
) -> None:
    """Sender and action are said where they are known."""
    assert expected == signals.received(*arguments)
