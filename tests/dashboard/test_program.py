"""The live page of the program itself, with traffic that goes through it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support import clients
from tests.support.backends import BackendFactory
from tests.support.browser import Browser
from tests.support.dashboard import LivePage, row
from tests.support.proxies import Proxy, ProxyFactory
from tests.support.waiting import wait_until

CONF = """
worker_processes 2;
events {}
stream {
    upstream changing { zone changing 256k; server %s; server %s; }
    server { listen 127.0.0.1:@main@; proxy_pass changing; }
    server { listen 127.0.0.1:@api@; api write=on; }
}
"""


@contextmanager
def traffic(program: Proxy) -> Iterator[None]:
    """Let one short session follow another."""
    is_over = threading.Event()

    def drive() -> None:
        while not is_over.wait(0.02):
            clients.tcp_exchange(program.address("main"), b"ping", size=4)

    driver = threading.Thread(target=drive)
    driver.start()
    try:
        yield
    finally:
        is_over.set()
        driver.join()


def test_a_peer_of_the_program_is_drained(
    ngxstream: ProxyFactory, backends: BackendFactory, browser: Browser
) -> None:
    """Numbers move; the traffic leaves a peer that is drained by clicks, and comes back to it."""
    first, second = backends.tcp(), backends.tcp()
    program = ngxstream(CONF % (first.text, second.text))
    with traffic(program):
        page = browser.page(f"http://127.0.0.1:{program.port('api')}/")
        live = LivePage(page)
        wait_until(lambda: min(live.rate(first.text), live.rate(second.text)) > 0)
        before = page.text("#facts")
        page.wait(f"document.querySelector('#facts').innerText !== {before!r}")

        live.press("Drain", row(first.text))
        live.is_asked("Drain")
        live.has_row(first.text, "draining")
        count = first.accepted
        wait_until(lambda: live.rate(first.text) == 0, what="its traffic is gone")
        assert live.rate(second.text) > 0
        assert first.accepted <= count + 1  # one may have been on its way

        live.press("Bring back", row(first.text))
        live.is_asked("Bring back")
        wait_until(lambda: first.accepted > count + 1, what="its traffic is back")
        program.reload()
        live.has("#changes", "Generation 1 → 2")
        live.has_row(first.text, "up")
    assert [] == page.wrong
    page.close()
