"""Timeouts shorter than the time for which nginx leaves a timer alone."""

import pytest

from tests.support.backends import BackendFactory
from tests.support.hall import Hall
from tests.support.moving_clock import MovingClock


def test_a_session_whose_bytes_flow_outlives_a_proxy_timeout_of_250_ms(
    monkeypatch: pytest.MonkeyPatch, backends: BackendFactory
) -> None:
    """Each byte begins the time anew, however short it is; without bytes the session ends."""
    clock = MovingClock(monkeypatch)
    echo = backends.tcp()
    with Hall(
        "stream { server { listen 127.0.0.1:@in@; proxy_timeout 250ms; "
        f"proxy_pass 127.0.0.1:{echo.port}; }} }}"
    ) as hall:
        client = hall.connect()
        for n in range(10):
            client.send(bytes([n]))

            def answer() -> bytes:
                try:
                    return client.recv(10)
                except BlockingIOError:
                    return b""

            assert bytes([n]) == hall.turn_until(answer, "an answer")
            clock.move(hall.loop, 60)
        assert 0 == hall.sessions[0].status
        clock.move(hall.loop, 251)
        assert b"" == hall.read(client)
        assert 200 == hall.sessions[0].status
