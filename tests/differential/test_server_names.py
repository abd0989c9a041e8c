"""server_name as nginx's http block judges and matches it: the same code as stream's.

(The nginx at hand has no server_name in stream yet.)
"""

import random
import re
from pathlib import Path

import pytest

from ngxstream.stream import servers
from tests.support import clients, in_process, proxies
from tests.support.sessions import FakeSession

KINDS = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
SETTINGS = "access_log off; server_names_hash_bucket_size 256; " + "".join(
    f"{kind}_temp_path logs/{kind}; " for kind in KINDS
)


def http_block(names: list[str], address: str) -> str:
    """Write an http block with a server for each server_name line."""
    inner = "".join(
        f'server {{ listen {address}; {f"server_name {line};" if line else ""} '
        f'return 200 "{number}$1"; }}\n'
        for number, line in enumerate(names)
    )
    return f"events {{}} http {{ {SETTINGS}\n{inner} }}"


def stream_block(names: list[str], address: str) -> in_process.Built:
    """Build a stream block with a server for each server_name line."""
    inner = "".join(
        f'server {{ listen {address}; {f"server_name {line};" if line else ""} '
        f'return "{number}$1"; }}\n'
        for number, line in enumerate(names)
    )
    return in_process.build(f"stream {{ server_names_hash_bucket_size 256;\n{inner} }}")


JUDGED = [
    ["a"],
    ["a", "b"],
    ["a", "a"],
    ["", ""],
    ['""', '""'],
    ["a b c", "c d", "e a"],
    ["*.a", ".a"],
    [".a", "*.a"],
    [".a", "a"],
    ["a", ".a"],
    ["a.*", "a.*"],
    ["A", "a"],
    ["*"],
    ["*a.b"],
    ["*.", "x"],
    ["."],
    ["a/b"],
    ["a*b"],
    ["a*b", "x"],
    ["a.*.b", "x"],
    ["*.a.*", "x"],
    ["a..b", "x"],
    ["~"],
    ["~^a$", "~^a$"],
    ['"~("'],
    ['"~[a"'],
    ['"~a{2,1}"'],
    ["$hostname"],
    ["$hostname", "$HOSTNAME"],
    ["$host", "x"],
    ['"a b"', "x"],
    ["é", "É"],
]


@pytest.mark.parametrize("names", JUDGED, ids=str)
def test_names_are_judged_alike(names: list[str], tmp_path: Path) -> None:
    """The same lines are taken, warned of and refused, in the same words."""
    nginx = proxies.Nginx(http_block(names, "127.0.0.1:9"), tmp_path)
    place = f"{nginx.prefix}/conf/nginx.conf"
    said = [
        line.removeprefix("nginx: ").replace(place, in_process.CONF)
        for line in nginx.test().stderr.splitlines()
        if re.match(r"nginx: \[(warn|emerg)\]", line)
    ]
    built = stream_block(names, "127.0.0.1:9")
    assert said == [*built.warnings, *([f"[emerg] {built.error}"] if built.error else [])]


def random_names(rng: random.Random, count: int) -> list[str]:
    """Return names of few different labels, so that they meet often."""
    forms = ["{}", "{}", "*.{}", ".{}", "{}.*", r"~^{}\.(\w+)$", "~({})"]
    names = []
    for _ in range(count):
        labels = ".".join(rng.choices("abc", k=rng.randint(1, 4)))
        form = rng.choice(forms)
        names.append(form.format(re.escape(labels) if form[0] == "~" else labels))
    return names


def test_hosts_select_alike(tmp_path: Path) -> None:
    """1000 hosts on 60 servers with names of every kind: the same server, the same capture."""
    rng = random.Random(7)
    names = [" ".join(random_names(rng, 2)) for _ in range(60)]
    hosts = [".".join(rng.choices(["a", "b", "c", "aa", "x"], k=rng.randint(1, 5)))
             for _ in range(1000)]
    built = stream_block(names, "127.0.0.1:9")
    assert built.conf is not None, built.error
    address = built.conf.listenings[0].default
    ours = []
    for host in hosts:
        s = FakeSession(server=address.default_server, address=address)
        servers.select(s, host.encode())  # type: ignore[arg-type]
        ours.append(s.server.return_.text.get(s).decode())
    with (
        proxies.Nginx(http_block(names, "127.0.0.1:@main@"), tmp_path) as nginx,
        clients.TcpClient(nginx.address("main")) as client,
    ):
        theirs = []
        for count, host in enumerate(hosts, 1):
            close = "Connection: close\r\n" if count == 1000 else ""
            client.send(f"GET / HTTP/1.1\r\nHost: {host}\r\n{close}\r\n".encode())
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv_exactly(1)
            length = re.search(rb"Content-Length: (\d+)", head)
            assert length is not None, head
            theirs.append(client.recv_exactly(int(length[1])).decode())
    assert dict(zip(hosts, theirs, strict=True)) == dict(zip(hosts, ours, strict=True))
