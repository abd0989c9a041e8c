"""Timeouts shorter than the time for which nginx leaves a timer alone."""

import pytest

from tests.support.backends import BackendFactory
from tests.support.in_process import InProcess
from tests.support.moving_clock import MovingClock


def test_a_session_whose_bytes_flow_outlives_a_proxy_timeout_of_250_ms(
    monkeypatch: pytest.MonkeyPatch, backends: BackendFactory
) -> None:
    """Each byte begins the time anew, however short it is; without bytes the session ends."""
    clock = MovingClock(monkeypatch)
    echo = backends.tcp()
    with InProcess(
        "stream { server { listen 127.0.0.1:@in@; proxy_timeout 250ms; "
        f"proxy_pass 127.0.0.1:{echo.port}; }} }}"
    ) as served:
        client = served.connect()
        for n in range(10):
            client.send(bytes([n]))

            def answer() -> bytes:
                try:
                    return client.recv(10)
                except BlockingIOError:
                    return b""

            assert bytes([n]) == served.turn_until(answer, "an answer")
            clock.move(served.loop, 60)
        assert 0 == served.sessions[0].status
        clock.move(served.loop, 251)
        assert b"" == served.read(client)
        assert 200 == served.sessions[0].status
