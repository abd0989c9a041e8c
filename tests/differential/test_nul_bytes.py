"""A NUL byte in a word of the configuration: the C library ends its strings there, and so do we."""

import re
from pathlib import Path

import pytest

from ngxstream.conf import directive
from ngxstream.core import clock, errors, log
from ngxstream.process import cycle
from ngxstream.process.options import Options
from tests.support.clients import tcp_exchange
from tests.support.proxies import Proxy, ProxyFactory

SERVER = "server { listen 127.0.0.1:@main@; return served; }"
EVENTS = "events {}"
STREAM = f"{EVENTS} stream {{ {SERVER} }}"

# what stands before the stream block's server, in it, or for all of it
HEADS = {
    "error_log": 'error_log "logs/cut\0off";',
    "pid": 'pid "logs/nginx.pid\0off";',
    "include": 'include "gone\0off";',
    "include of a pattern": 'include "gone*\0off";',
    "env without a value": 'env "A\0=b";',
    "env": 'env "A=b\0c";',
    "env that is inherited": 'env "PATH\0OFF";',
    "working_directory": 'working_directory "/\0off";',
    "user": 'user "root\0off" "root\0off";',
    "no user": 'user "nobody-of-that-name\0";',
    "lock_file": 'lock_file "logs/lock\0off";',
    "worker_cpu_affinity": 'worker_cpu_affinity "1\0";',
    "worker_processes": 'worker_processes "1\0";',
}
BLOCKS = {
    "access_log": 'log_format f x; access_log "logs/cut\0off" f;',
    "error_log of the block": 'error_log "logs/cut\0off";',
    "syslog": 'error_log "syslog:server=unix:/dev/gone\0off";',
    "resolver": 'resolver "127.0.0.1\0";',
    "zone": 'upstream "u\0x" { zone "z\0x" 64k; server 127.0.0.1:5; }',
    "unix server": 'upstream u { server "unix:/tmp/gone\0off"; }',
    "log_format": 'log_format "f\0x" "a\0b";',
    "map": 'map "$remote_addr\0" $x { "a\0b" "c\0d"; default ""; }',
    "set_real_ip_from": 'set_real_ip_from "127.0.0.1\0";',
    "ssl_certificate": 'server { listen 127.0.0.1:@more@ ssl; return x; '
                       'ssl_certificate "/tmp/gone\0off"; ssl_certificate_key "/tmp/gone\0off"; }',
    "listen unix": 'server { listen "unix:@folder@/cut\0off"; return x; }',
    "listen": 'server { listen "127.0.0.1\0:@more@"; return x; }',
    "proxy_pass": 'server { listen 127.0.0.1:@more@; proxy_pass "unix:/tmp/gone\0off"; }',
    "proxy_bind": 'server { listen 127.0.0.1:@more@; proxy_bind "127.0.0.1\0"; '
                  'proxy_pass 127.0.0.1:5; }',
    "return": 'server { listen 127.0.0.1:@more@; return "a\0b"; }',
}
CASES = {name: f"{head} {STREAM}" for name, head in HEADS.items()}
CASES |= {name: f"{EVENTS} stream {{ {SERVER} {text} }}" for name, text in BLOCKS.items()}


def verdict(program: Proxy) -> tuple[int, list[str]]:
    """Return what -t says: the code, and the messages without names and places."""
    done = program.run("-t")
    lines = [line.split(": ", 1)[1] for line in done.stderr.splitlines() if "[emerg]" in line]
    return done.code, [
        re.sub(r"(127\.0\.0\.1\S*?):\d+", r"\1:PORT", line).replace(str(program.prefix), "/p")
        .replace("\0", "\\x00")  # as we write it to a log
        for line in lines
    ]


@pytest.mark.parametrize("name", CASES)
def test_a_nul_byte_ends_a_word_as_in_nginx(name: str, both, tmp_path: Path) -> None:
    """Verdict and message are nginx's."""
    text = CASES[name].replace("@folder@", str(tmp_path))
    nginx, ours = (verdict(program) for program in both(text, start=False))
    if name == "ssl_certificate":  # what OpenSSL adds is not compared
        nginx, ours = ((code, [line[:60] for line in lines]) for code, lines in (nginx, ours))
        ours = ours[0], [line[:55] for line in ours[1]]
        nginx = nginx[0], [line[:55] for line in nginx[1]]
    assert nginx == ours


@pytest.mark.parametrize("name", [name for name in CASES if name != "pid"])
def test_what_passes_the_test_serves(name: str, ngxstream: ProxyFactory, tmp_path: Path) -> None:
    """A configuration with a NUL byte that -t takes has a worker that answers, and ends clean."""
    text = CASES[name].replace("@folder@", str(tmp_path))
    program = ngxstream(text, start=False)
    if program.run("-t").code == 0:
        program._workers_wanted = lambda: 1
        program.start()
        assert b"served" == tcp_exchange(program.address("main"))
        program.reload()
        assert b"served" == tcp_exchange(program.address("main"))


# -- every directive -------------------------------------------------------------------------------

WORDS = ('"\0"', '"a\0b"', '"/tmp/a\0b"', '"unix:/tmp/a\0b"', '"127.0.0.1\0"', '"1\0"', '"on\0"',
         '"$remote_addr\0"', '"zone=a\0b:1m"', '"data:\0"', '"~^\0"')
AROUND = {
    directive.MAIN: "{} events {{}}",
    directive.EVENTS: "events {{ {} }}",
    directive.STREAM: "events {{}} stream {{ {} }}",
    directive.SERVER: "events {{}} stream {{ server {{ listen 127.0.0.1:19; {} }} }}",
    directive.UPSTREAM: "events {{}} stream {{ upstream u {{ {} }} }}",
}


def uses() -> list[tuple[str, list[str]]]:
    """Return for each directive the configurations that give it words with NUL bytes."""
    found = []
    for module in cycle.MODULES:
        for one in module.directives:
            least, most = one.takes.least, one.takes.most
            texts = []
            for context, around in AROUND.items():
                if not one.contexts & context:
                    continue
                for count in range(max(least, 1), min(most or least + 2, least + 2) + 1):
                    for word in WORDS:
                        args = " ".join([word] * count)
                        end = "{ a b; }" if one.takes.block else ";"
                        texts.append(around.format(f"{one.name} {args} {end}"))
            if texts:
                found.append((f"{module.name}.{one.name}", texts))
    return found


@pytest.mark.parametrize(("name", "texts"), uses(), ids=[name for name, _ in uses()])
def test_no_directive_fails_by_a_nul_byte(name: str, texts: list[str], tmp_path: Path) -> None:
    """A word with a NUL byte is taken or refused with a message, whatever the directive."""
    (tmp_path / "logs").mkdir()
    conf = tmp_path / "nginx.conf"
    options = Options(["nginx", "-p", str(tmp_path), "-c", "nginx.conf", "-e", "e.log", "-tq"])
    head = f"pid {tmp_path}/p.pid;" if not name.endswith(".pid") else ""
    quiet = log.Log([], clock=clock.Clock(), console=log.Console("nginx"))
    said = []
    for text in texts:
        conf.write_text(f"{head} {text}")
        try:
            cycle.Cycle(options, quiet).abandon(None)
        except errors.NgxError as error:
            said.append(str(error))
    assert all(said)
