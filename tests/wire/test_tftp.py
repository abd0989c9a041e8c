"""TFTP through proxy_udp_any_port: tftpd-hpa answers from a port of its own for each file."""

import socket
import subprocess
from pathlib import Path

import pytest

from tests.support import tools
from tests.support.netns import Namespaces, in_netns
from tests.support.proxies import Proxy, ProxyFactory
from tests.support.waiting import wait_until

SERVER, STRANGER, PROXY = "10.79.1.2", "10.79.2.2", "10.79.3.1"
CONF = """events {} error_log logs/error.log info;
stream {
    log_format f '$status $bytes_sent $upstream_bytes_received';
    access_log logs/a.log f;
    proxy_timeout 5s;
    server { listen 10.79.3.1:69 udp; proxy_udp_any_port %s; proxy_pass 10.79.1.2:69; }
}
"""

pytestmark = pytest.mark.root


class Net:
    """A proxy between clients and a TFTP server, and a third host that reaches the proxy too."""

    def __init__(self, net: Namespaces, folder: Path) -> None:
        self.net = net
        self.proxy = net.add("proxy")
        for label, near, far in (
            ("server", "10.79.1.1", SERVER), ("stranger", "10.79.2.1", STRANGER),
            ("client", PROXY, "10.79.3.2"),
        ):
            net.add(label)
            net.link("proxy", f"{near}/24", label, f"{far}/24")
        net.route("stranger", "default", "via", "10.79.2.1")
        self.files = folder / "tftp"
        self.files.mkdir()
        self.files.chmod(0o755)
        for parent in self.files.parents[:3]:
            parent.chmod(parent.stat().st_mode | 0o111)
        # -s needs super-user rights, and the server takes those of the user it is given
        self.server = net.popen(
            "server", tools.require("in.tftpd"), "-L", "-s", "--address", f"{SERVER}:69",
            "-u", "root", str(self.files),
        )
        wait_until(self._listens, what="the TFTP server")

    def _listens(self) -> bool:
        return "10.79.1.2:69" in self.net.run("server", "ss", "-lun")

    def get(self, name: str, timeout: int = 20) -> bytes:
        """Return a file as curl gets it by TFTP from the proxy; empty for none."""
        words = ("curl", "-s", "-m", str(timeout), f"tftp://{PROXY}/{name}", "-o", "-")
        done = subprocess.run(
            [tools.require("ip"), "netns", "exec", self.net.name("client"), *words],
            capture_output=True, check=False, timeout=timeout + 20,
        )
        return done.stdout


@pytest.fixture
def net(namespaces: Namespaces, tmp_path: Path) -> Net:
    """Give the network, with the server."""
    tools.require("curl")
    return Net(namespaces, tmp_path)


def serve(ngxstream: ProxyFactory, net: Net, word: str) -> Proxy:
    """Start the proxy."""
    return ngxstream(CONF % word, netns=net.proxy)


def test_files_are_read_and_written(ngxstream: ProxyFactory, net: Net, tmp_path: Path) -> None:
    """By curl and by tftp, of many blocks, one after the other, also over a reload."""
    content = bytes(range(256)) * 400
    (net.files / "image").write_bytes(content)
    (net.files / "image").chmod(0o644)
    running = serve(ngxstream, net, "on")
    assert content == net.get("image")
    running.reload()
    assert content == net.get("image")
    (net.files / "new").touch()
    (net.files / "new").chmod(0o666)
    (tmp_path / "local").write_bytes(content)
    words = ("-m", "binary", PROXY, "-c", "put", str(tmp_path / "local"), "new")
    net.net.run("client", "tftp", *words)
    assert content == (net.files / "new").read_bytes()


def test_without_it_nothing_is_read(ngxstream: ProxyFactory, net: Net) -> None:
    """As through nginx: the answer comes from a port that the session does not hear."""
    (net.files / "small").write_text("small")
    (net.files / "small").chmod(0o644)
    serve(ngxstream, net, "off")
    assert b"" == net.get("small", timeout=3)


def test_a_third_host_has_no_word_in_it(ngxstream: ProxyFactory, net: Net) -> None:
    """It sends to the session's very port, and the client gets nothing of it."""
    running = serve(ngxstream, net, "on")

    def made(label: str, host: str, port: int = 0) -> socket.socket:
        def make() -> socket.socket:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind((host, port))
            sock.settimeout(20)
            return sock

        return in_netns(net.net.name(label), make)

    net.server.terminate()
    net.server.wait()
    with (
        made("client", "10.79.3.2") as client, made("server", SERVER, 69) as known,
        made("server", SERVER) as other, made("stranger", STRANGER) as stranger,
        made("stranger", STRANGER, 69) as alike,
    ):
        client.sendto(b"read", (PROXY, 69))
        data, session = known.recvfrom(100)
        assert data == b"read"
        where = ("10.79.2.1", session[1])
        for _ in range(50):
            stranger.sendto(b"evil", where)
            alike.sendto(b"evil", ("10.79.1.1", session[1]))
        other.sendto(b"data 1", session)
        assert (b"data 1", (PROXY, 69)) == client.recvfrom(100)
        client.sendto(b"ack 1", (PROXY, 69))
        assert (b"ack 1", session) == other.recvfrom(100)
        stranger.sendto(b"evil", where)
        other.sendto(b"data 2", session)
        assert b"data 2" == client.recv(100)
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(100)
    (line,) = running.wait_log("200", name="logs/a.log")
    assert line == "200 12 12"  # the kernel kept the others' out
