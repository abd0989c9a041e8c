"""What the machines of the pages have besides: certificates, and the servers that a page names."""

import contextlib
import functools
import re
import ssl
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support import backends as b
from tests.support import pages, tools
from tests.support.certs import Authority
from tests.support.dns import Dnsmasq
from tests.support.machine import Machine
from tests.support.proxies import ROOT

PYTHON = sys.executable
# The names of the pages, in the machines' /etc/hosts.
HOSTS = {
    "app.example.com": "192.0.2.80", "blue.example.com": "192.0.2.81",
    "green.example.com": "192.0.2.82", "dns.example.com": "192.0.2.53",
}
NAMES = ("*.example.com", "*.example.org", "localhost")
_FILES = re.compile(
    r"\b(ssl_certificate|ssl_certificate_key|proxy_ssl_certificate|proxy_ssl_certificate_key"
    r"|ssl_client_certificate|ssl_trusted_certificate|proxy_ssl_trusted_certificate)\s+([^;$]+);"
)


@functools.cache
def certificates() -> tuple[str, str, str]:
    """Return a certificate, its key and its authority's certificate, made once."""
    with tempfile.TemporaryDirectory() as folder:
        authority = Authority(Path(folder))
        pair = authority.issue("example.com", names=NAMES)
        return pair.cert.read_text(), pair.key.read_text(), authority.cert.read_text()


def provide_files(machine: Machine, text: str, path: str) -> None:
    """Write the files that a configuration reads and that no page shows. Args: path: its own"""
    cert, key, authority = certificates() if _FILES.search(text) else ("", "", "")
    for directive, name in _FILES.findall(text):
        file = Path(path).parent / name
        content = key if directive.endswith("_key") else cert
        if not directive.endswith(("ssl_certificate", "_key")):
            content = authority
        if not machine.path(str(file)).exists():
            machine.write(str(file), content)
    for name in re.findall(r"\b(?:state|state=)\s*(/[^;\s]+)", text):
        machine.path(name).parent.mkdir(parents=True, exist_ok=True)
        machine.path(name).parent.chmod(0o777)


def _upper(conversation: b.Conversation) -> None:
    """Say what comes, in upper case."""
    while data := conversation.recv():
        conversation.send(data.upper())


def _named(name: str) -> b.Script:
    """Say a name, whatever comes, and end."""

    def script(conversation: b.Conversation) -> None:
        conversation.recv()
        conversation.send(name.encode() + b"\n")

    return script


SURROUNDINGS: dict[str, Callable[[Machine, Path, contextlib.ExitStack], None]] = {}


@contextlib.contextmanager
def of(page: str, machine: Machine, folder: Path) -> Iterator[None]:
    """Start the servers that a page speaks of; they end with the block."""
    with contextlib.ExitStack() as stack:
        if page in SURROUNDINGS:
            SURROUNDINGS[page](machine, folder, stack)
        yield


def _dns(machine: Machine, folder: Path, stack: contextlib.ExitStack) -> None:
    machine.give_address("192.0.2.53")
    records = {"www.example.com": ["192.0.2.80"]}
    stack.enter_context(
        Dnsmasq(records, folder=folder, host="192.0.2.53", port=53, netns=machine.servers))


SURROUNDINGS["docs/tasks/dns.md"] = _dns


def _migrate(machine: Machine, folder: Path, stack: contextlib.ExitStack) -> None:
    tools.require_nginx()
    for address in ("192.0.2.31", "192.0.2.32"):
        stack.enter_context(b.TcpBackend(
            _named(f"database {address}"), host=address, port=5432, netns=machine.servers))


SURROUNDINGS["docs/tasks/migrate-from-nginx.md"] = _migrate


def _syslog(machine: Machine, folder: Path, stack: contextlib.ExitStack) -> None:
    for address in ("192.0.2.14", "192.0.2.15"):
        stack.enter_context(
            b.UdpBackend(b.udp_silent, host=address, port=514, netns=machine.servers))


def _game(machine: Machine, folder: Path, stack: contextlib.ExitStack) -> None:
    def answers(name: str) -> b.Answer:
        return lambda data, peer: [
            f"{name} hears {data.decode()} from port {peer[1]}".encode()]

    for address in ("192.0.2.61", "192.0.2.62"):
        stack.enter_context(b.UdpBackend(
            answers(f"{address}:7777"), host=address, port=7777, netns=machine.servers))


def _tls(machine: Machine, folder: Path, stack: contextlib.ExitStack) -> None:
    nginx = tools.require_nginx()
    cert, key, authority = certificates()
    for name, text in {"example.crt": cert, "example.key": key, "ca.crt": authority}.items():
        machine.write(f"/etc/ngxstream/{name}", text)
    (block,) = (one for one in pages.blocks(ROOT / "docs/tasks/tls-by-name.md")
                if one.option == "/srv/behind.conf")
    machine.write("/srv/behind.conf", block.text)
    # on the servers' host, whose files are this machine's
    done = machine.run(
        nginx, "-c", "/srv/behind.conf", "-e", "/var/log/behind.log", "-g", "pid /run/behind.pid;",
        netns=machine.servers)
    assert done.returncode == 0, done.stdout
    stack.enter_context(b.TcpBackend(_plain, host="192.0.2.80", port=80, netns=machine.servers))


def _plain(conversation: b.Conversation) -> None:
    """Answer a request of HTTP with the address that it came from."""
    while b"\r\n\r\n" not in conversation.received:
        conversation.recv()
    host = conversation.peer[0].encode()
    conversation.send(b"HTTP/1.0 200 OK\r\n\r\nplain text from %s\n" % host)


SURROUNDINGS["docs/tasks/syslog.md"] = _syslog
SURROUNDINGS["docs/tasks/voip-and-games.md"] = _game
SURROUNDINGS["docs/tasks/tls-by-name.md"] = _tls


@contextlib.contextmanager
def tls_server(machine: Machine, host: str, port: int) -> Iterator[None]:
    """Serve TLS for the names of the pages on the servers' host."""
    cert, key, authority = certificates()
    with tempfile.TemporaryDirectory() as folder:
        chain = Path(folder, "chain")
        chain.write_text(cert + authority + key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain)

    def shake_hands(conversation: b.Conversation) -> None:
        conversation.sock.settimeout(30)
        with contextlib.suppress(OSError), context.wrap_socket(
                conversation.sock.dup(), server_side=True) as inside:
            inside.recv(1)

    with b.TcpBackend(shake_hands, host=host, port=port, netns=machine.servers):
        yield


def _web(machine: Machine, folder: Path, stack: contextlib.ExitStack) -> None:
    for address in ("192.0.2.31", "192.0.2.34"):
        stack.enter_context(b.TcpBackend(_plain, host=address, port=8080, netns=machine.servers))


SURROUNDINGS["docs/tasks/no-traffic.md"] = _web


def _monitoring(machine: Machine, folder: Path, stack: contextlib.ExitStack) -> None:
    machine.path("/etc/prometheus").mkdir(exist_ok=True)  # what `apt install prometheus` would make


SURROUNDINGS["docs/monitoring.md"] = _monitoring


def _readme(machine: Machine, folder: Path, stack: contextlib.ExitStack) -> None:
    machine.write("/etc/nginx/nginx.conf", "events {} stream { server { listen 5000; return 1; } }")


def _service(machine: Machine, folder: Path, stack: contextlib.ExitStack) -> None:
    stack.enter_context(b.TcpBackend(b.silent, host="0.0.0.0", port=53, netns=machine.netns))


def _troubleshooting(machine: Machine, folder: Path, stack: contextlib.ExitStack) -> None:
    machine.write("/etc/nginx/nginx.conf", "events {} stream { server { listen 5000; api; } }")
    machine.must("ngxstream")


SURROUNDINGS["README.md"] = _readme
SURROUNDINGS["docs/installing.md"] = _readme  # of pip's paths, where `make install` was not run
SURROUNDINGS["docs/service.md"] = _service
SURROUNDINGS["docs/troubleshooting.md"] = _troubleshooting
