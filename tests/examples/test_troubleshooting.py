"""docs/troubleshooting.md: every line of a log on the page is one that the program has written."""

import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import backends as b
from tests.support import surroundings
from tests.support.dns import Dnsmasq
from tests.support.machine import Machine
from tests.support.netns import Namespaces
from tests.support.pages import blocks, settled
from tests.support.proxies import ROOT
from tests.support.waiting import wait_until

PAGE = ROOT / "docs" / "troubleshooting.md"
LINES = [line for block in blocks(PAGE) if block.language == "text"
         for line in block.text.splitlines()]
FOLDER = "/etc/ngxstream"
CONF = f"""
worker_processes 1;
error_log /var/log/nginx/error.log info;
events {{ worker_connections 64; }}
stream {{
    proxy_connect_timeout 300ms;
    limit_conn_zone $binary_remote_addr zone=per_client:1m;
    limit_sess_zone $binary_remote_addr zone=new:1m rate=1r/m;
    resolver 192.0.2.53 ipv6=off;
    map "" $name {{ default nowhere.example.com; }}
    upstream two {{ server 192.0.2.1:81; server 192.0.2.1:82; }}
    upstream refused {{ server 192.0.2.1:81; }}
    server {{ listen 198.51.100.1:1001; proxy_pass refused; }}
    server {{ listen 198.51.100.1:1002; proxy_pass two; }}
    server {{ listen 198.51.100.1:1003; proxy_pass 192.0.2.99:80; }}
    server {{ listen 198.51.100.1:1004; deny all; return 1; }}
    server {{ listen 198.51.100.1:1005; limit_conn per_client 1; proxy_pass 192.0.2.1:7; }}
    server {{ listen 198.51.100.1:1006; limit_sess zone=new; return 1; }}
    server {{ listen 198.51.100.1:1007; proxy_pass $name:80; }}
    server {{ listen 198.51.100.1:1008 proxy_protocol; return 1; }}
    server {{ listen 198.51.100.1:1009 udp; proxy_pass 192.0.2.1:7; proxy_timeout 300ms;
              proxy_responses 1; }}
    server {{ listen 198.51.100.1:1010; }}
    server {{ listen 198.51.100.1:1011 ssl; return 1;
              ssl_certificate {FOLDER}/a.crt; ssl_certificate_key {FOLDER}/a.key; }}
    server {{ listen 198.51.100.1:1012; proxy_pass 192.0.2.1:443;
              proxy_ssl on; proxy_ssl_verify on; proxy_ssl_trusted_certificate {FOLDER}/a.crt; }}
    server {{ listen 198.51.100.1:1013; proxy_pass 192.0.2.1:443;
              proxy_ssl_name nowhere.example.net; proxy_ssl on; proxy_ssl_verify on;
              proxy_ssl_trusted_certificate {FOLDER}/ca.crt; }}
    server {{ listen 198.51.100.1:1014 udp rcvbuf=4k; return 1; }}
    server {{ listen 198.51.100.1:1015 udp; proxy_pass 192.0.2.1:81; }}
    server {{ listen 198.51.100.1:1016; proxy_pass 192.0.2.1:7; }}
}}
"""
# Runs on the other host, as the client 203.0.113.9.
CLIENT = """
import contextlib, socket, ssl, sys

ME = ("203.0.113.9", 0)

def tcp(port):
    client = socket.create_connection(("198.51.100.1", port), 30, ME)
    client.settimeout(30)
    return client

def ended(client, data=b"GET / HTTP/1.0\\r\\n\\r\\n"):
    with contextlib.suppress(OSError), client:
        client.sendall(data)
        while client.recv(4096):
            pass

def udp(port, *data):
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.bind(ME)
        for one in data:
            client.sendto(one, ("198.51.100.1", port))

def all_of_them():
    for port in (1001, 1002, 1002, 1003, 1004, 1006, 1006, 1007, 1008, 1010, 1011, 1012, 1013):
        ended(tcp(port))
    with tcp(1005) as held:
        ended(tcp(1005))
    with contextlib.suppress(ssl.SSLError), tcp(1011) as client:
        ssl.create_default_context().wrap_socket(client, server_hostname="www.example.com")
    udp(1009, b"hello")
    udp(1015, b"hello")

def fill():
    udp(1014, *[b"x" * 500] * 1000)

def crowd():
    held = [tcp(1016) for _ in range(40)]
    sys.stdin.read()
    for client in held:
        client.close()

globals()[sys.argv[1]]()
"""


def bare(line: str) -> str:
    """Return a line without its time, process, session, counts, and the program's name."""
    line = re.sub(r"^(?:TIME |ngxstream: )", "", settled(line))
    line = re.sub(r"(\[\w+\]) PID: (?:\*N )?", r"\1 ", line)
    line = re.sub(r"so far: \d+", "so far: N", line)
    return re.sub(r"process (?:PID|\d+)", "process PID", line)


def refused(machine: Machine) -> Iterator[str]:
    """Return what starts that fail say."""
    head = f"pid {FOLDER}/other.pid; events {{}} stream {{\n"
    server = "server {{ listen {}; return 1; }} }}"
    texts = (
        "\nupsteam x; }",
        "\nupstream a { server 192.0.2.1:1; health_check; } }",
        "\nserver { listen 9; proxy_pass 192.0.2.53; } }",
        "\nserver { listen 9; proxy_pass nowhere.example.com:1; } }",
        server.format("198.51.100.1:5432"),
        server.format("198.51.100.9:5432"),
        (f"server {{ listen 9 ssl; ssl_certificate {FOLDER}/none.crt;"
         f" ssl_certificate_key {FOLDER}/none.key; }} }}"),
        "server { listen 9; return 1; error_log /var/log/none/error.log; } }",
    )
    machine.write("/srv/hold.py", "import socket, time\n"
                  "s = socket.create_server(('198.51.100.1', 5432)); time.sleep(3600)")
    machine.must("python3 /srv/hold.py & while ! ss -lnt | grep -q :5432; do :; done")
    for text in texts:
        machine.write(f"{FOLDER}/bad.conf", head + text)
        yield machine.run("ngxstream", "-c", f"{FOLDER}/bad.conf").stdout
    yield machine.run("ngxstream", "-c", f"{FOLDER}/none.conf").stdout
    yield machine.run("ngxstream", "-c", f"{FOLDER}/all.conf", "-s", "reload").stdout
    machine.write(f"{FOLDER}/bad.conf", head + server.format("198.51.100.1:53"))
    machine.must("mkdir -p /var/log/nginx; chmod 777 /etc/ngxstream /var/log/nginx")
    yield machine.run("setpriv", "--reuid=65534", "--clear-groups", "--inh-caps=-all", "ngxstream",
                      "-c", f"{FOLDER}/bad.conf", "-e", "/var/log/nginx/other.log").stdout


@pytest.mark.root
def test_each_line_of_the_page_was_written(namespaces: Namespaces, tmp_path: Path) -> None:
    """By one program that meets all of it, and by starts that are refused."""
    with Machine(namespaces, {}) as machine:
        cert, key, authority = surroundings.certificates()
        for name, text in {"a.crt": cert, "a.key": key, "ca.crt": authority}.items():
            machine.write(f"{FOLDER}/{name}", text)
        machine.write(f"{FOLDER}/all.conf", CONF)
        machine.write("/srv/client.py", CLIENT)
        namespaces.ip("-n", machine.servers, "route", "add", "blackhole", "192.0.2.99")
        said = list(refused(machine))
        silent = [b.TcpBackend(b.silent, host="192.0.2.1", port=7, netns=machine.servers),
                  b.UdpBackend(b.udp_silent, host="192.0.2.1", port=7, netns=machine.servers)]
        machine.must(f"ngxstream -c {FOLDER}/all.conf")
        log = machine.path("/var/log/nginx/error.log")

        def client(what: str) -> None:
            done = machine.run("python3", "/srv/client.py", what, netns=machine.servers)
            assert (0, "") == (done.returncode, done.stdout)

        machine.give_address("192.0.2.53")
        dns = Dnsmasq({"www.example.com": ["192.0.2.80"]}, folder=tmp_path, host="192.0.2.53",
                      port=53, netns=machine.servers)
        with dns, silent[0], silent[1], surroundings.tls_server(machine, "192.0.2.1", 443):
            client("all_of_them")
            master = machine.must("cat /run/nginx.pid").strip()
            worker = machine.must(f"cat /proc/{master}/task/{master}/children").strip()
            machine.must(f"kill -STOP {worker}")
            client("fill")
            machine.must(f"kill -CONT {worker}")
            wait_until(lambda: "so far" in log.read_text(), what="the kernel's drops are told of")
            crowd = machine.command("python3", "/srv/client.py", "crowd", netns=machine.servers)
            with subprocess.Popen(crowd, stdin=subprocess.PIPE) as held:
                wait_until(lambda: "not enough" in log.read_text(), what="the crowd is told of")
                held.communicate()
            # of the UDP session whose server says nothing
            late = "upstream timed out (110: Connection timed out) while proxying connection"
            wait_until(lambda: late in log.read_text(), what="the session times out")
            machine.must(f"kill -{signal.SIGKILL.value} {worker}")
            wanted = [line for line in map(bare, LINES) if line]

            def missing() -> list[str]:
                text = "\n".join(said) + log.read_text()
                found = {bare(line) for line in text.splitlines()}
                return [line for line in wanted if line not in found]

            try:
                wait_until(lambda: not missing(), 10, "all lines")
            except AssertionError:
                raise AssertionError(
                    "\n".join(["not written:", *missing(), "", *said, log.read_text()])) from None
    assert len(wanted) > 20
