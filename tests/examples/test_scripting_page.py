"""docs/scripting.md: its programs are judged well, and do what the page says."""

import contextlib
import re

import pytest

from tests.support import clients
from tests.support.backends import BackendFactory, tagged
from tests.support.proxies import ROOT, Proxy, ProxyFactory

PAGE = (ROOT / "docs" / "scripting.md").read_text()
MODULES = dict(re.findall(r"(?ms)^```python (\w+\.py)\n(.*?)^```$", PAGE))
CONFS = re.findall(r"(?ms)^```nginx\n(.*?)^```$", PAGE)


def prepared(factory: ProxyFactory, conf: str) -> Proxy:
    """Return a program that is not started, with the modules of the page beside its file."""
    running = factory(conf, start=False)
    for name, text in MODULES.items():
        (running.prefix / "conf" / name).write_text(text)
    return running


def conf_with(word: str) -> str:
    """Return the configuration of the page that has a word."""
    (found,) = (conf for conf in CONFS if word in conf)
    return found


def test_the_page_has_programs() -> None:
    """Each module is imported by a configuration."""
    assert len(CONFS) >= 6
    for name in MODULES:
        assert any(f"py_import {name.removesuffix('.py')};" in conf for conf in CONFS), name


@pytest.mark.parametrize("conf", CONFS, ids=range(len(CONFS)))
def test_every_configuration_is_judged_well(ngxstream: ProxyFactory, conf: str) -> None:
    """With its modules, and without a warning about anything but the machine."""
    conf = conf.replace("/var/log/nginx/", "logs/")
    verdict = prepared(ngxstream, conf).test(conf)
    assert "test is successful" in verdict.stderr
    assert "[warn]" not in verdict.stderr.replace("[warn] the \"user\"", "")


def test_the_first_program_does_what_it_says(
    ngxstream: ProxyFactory, backends: BackendFactory
) -> None:
    """Who is on the list is turned away, others are served, and both are noted."""
    backend = backends.tcp(tagged("in"))
    conf = conf_with("py_import hours").replace("5432", "@in@").replace(
        "127.0.0.1:5433", backend.text)
    running = prepared(ngxstream, conf)
    running.start()
    with clients.TcpClient(running.address("in")) as client:
        assert client.exchange(b"x")
    running.wait_log(r"200, \w+, \d+ bytes in ")
    module = running.prefix / "conf/hours.py"
    module.write_text(MODULES["hours.py"].replace("192.0.2.7", "127.0.0.1"))
    running.reload()
    assert b"" == clients.tcp_exchange(running.address("in"))
    running.wait_log("on the list while running py_access")
    running.wait_log("403, denied, 0 bytes in ")


def test_the_servers_of_the_page_serve(ngxstream: ProxyFactory) -> None:
    """In upper case, over TCP and UDP."""
    conf = conf_with("py_import upper").replace("7777", "@upper@").replace("7778", "@greet@")
    running = prepared(ngxstream, conf)
    running.start()
    with clients.TcpClient(running.address("upper")) as client:
        assert b"ABC" == client.exchange(b"abc")
    assert b"ABC" == clients.udp_exchange(running.address("upper"), b"abc")
    assert b"hello you\n" == clients.tcp_exchange(running.address("greet"), b"you\n")


def test_clients_are_routed_by_their_first_line(ngxstream: ProxyFactory) -> None:
    """By the plain function and by the coroutine."""
    conf = conf_with("py_import names").replace("9100", "@plain@").replace("9200", "@waits@")
    running = prepared(ngxstream, conf)
    running.start()
    for name in ("plain", "waits"):
        with clients.TcpClient(running.address(name)) as client:
            client.send(b"bl")
            client.send(b"ue\n")
            with contextlib.suppress(ConnectionResetError):  # nobody has read what it sent
                assert b"" == client.recv_to_eof()
    assert 2 == len(running.wait_log(r'connect\(\) failed .* upstream: "127.0.0.1:9002"'))
