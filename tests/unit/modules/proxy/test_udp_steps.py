"""modules/proxy/udp_steps.py: what a client's datagrams pass before their session takes them."""

from types import SimpleNamespace
from typing import Any

import pytest

from ngxstream.modules.proxy import udp_steps


class Proxy:
    """A session that notes what it takes, and counts it."""

    def __init__(self, requests: int = 0) -> None:
        self.c = SimpleNamespace(received=0)
        self.s = SimpleNamespace(status=0)
        self.conf = SimpleNamespace(requests=requests)
        self.requests = 1
        self.taken: list[bytes] = []
        self.settled = 0

    def proxy_header(self) -> bytes:
        """Return the header of its client."""
        return b"H:"

    def take(self, views: list[memoryview]) -> None:
        """Take datagrams."""
        self.taken += map(bytes, views)
        self.requests += len(views)
        self.c.received += sum(map(len, views))

    def settle(self) -> bool:
        """Look whether it is over."""
        self.settled += 1
        return False


def test_the_header_is_in_front_of_each_datagram() -> None:
    """In their order; what the client sent is counted, the header is not."""
    proxy: Any = Proxy()
    udp_steps.Headed(proxy).take([memoryview(b"aa"), memoryview(b"b"), memoryview(b"")])
    assert ([b"H:aa", b"H:b", b"H:"], 3) == (proxy.taken, proxy.c.received)


@pytest.mark.parametrize("is_headed", [True, False])
def test_a_burst_is_divided(is_headed: bool) -> None:
    """Each of its datagrams needs the header, and is one of the quota."""
    proxy: Any = Proxy(100)
    step = udp_steps.Headed(proxy) if is_headed else udp_steps.Quota(proxy, proxy)
    step.take_burst(memoryview(b"aabbc"), 2)
    before = b"H:" if is_headed else b""
    assert [before + data for data in (b"aa", b"bb", b"c")] == proxy.taken


@pytest.mark.parametrize(("had", "taken", "left"), [(1, 2, 1), (3, 0, 3), (4, 0, 3), (0, 3, 0)])
def test_what_is_over_the_quota_is_left(had: int, taken: int, left: int) -> None:
    """It begins the client's next session; this one is asked whether it is over."""
    proxy: Any = Proxy(3)
    proxy.requests = had
    views = [memoryview(b"%d" % n) for n in range(3)]
    assert views[taken:] == udp_steps.Quota(proxy, proxy).take(views)
    assert (taken, left, 1) == (len(proxy.taken), 3 - len(proxy.taken), proxy.settled)


@pytest.mark.parametrize("requests", [0, 3])
@pytest.mark.parametrize("is_headed", [True, False])
@pytest.mark.parametrize("upload", [None, False, True])
def test_the_steps_are_those_that_are_configured(
    requests: int, is_headed: bool, upload: bool | None
) -> None:
    """The quota is the first of them; a rate puts the header in front itself. None: no rates."""
    conf: Any = SimpleNamespace(
        requests=requests, is_headed=is_headed, is_rated=upload is not None, amplification=0,
        quic=None,
    )
    proxy: Any = Proxy()
    proxy.conf = conf
    proxy.rates = None if upload is None else SimpleNamespace(upload=object() if upload else None)
    sink = proxy
    for step in udp_steps.chosen(conf):
        sink = step(proxy, sink)
    assert (requests > 0) == isinstance(sink, udp_steps.Quota)
    if requests:
        sink = sink.sink
    if upload:
        assert sink is proxy.rates
    else:
        assert is_headed == isinstance(sink, udp_steps.Headed)
        assert is_headed or sink is proxy


def test_limits_of_datagrams_come_before_the_quota() -> None:
    """What is dropped there is none of proxy_requests."""
    conf: Any = SimpleNamespace(
        requests=3, is_headed=False, is_rated=False, amplification=0, quic=None
    )
    proxy: Any = Proxy()
    proxy.conf = conf
    proxy.s = SimpleNamespace(server=SimpleNamespace(gate=lambda s, sink: ("gate", sink)))
    sink: Any = proxy
    for step in udp_steps.chosen(conf, is_gated=True):
        sink = step(proxy, sink)
    assert sink[0] == "gate"
    assert isinstance(sink[1], udp_steps.Quota)
