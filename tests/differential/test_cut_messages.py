"""Where a message about the configuration ends, and which of two errors is found first."""

import re
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.support import proxies, verdicts

SERVER = "server {{ listen 127.0.0.1:9; {} }}"
RETURNS = "server { listen 127.0.0.1:9; return x; }"
GONE = "ssl_certificate /no/c; ssl_certificate_key /no/k;"
GONE_NUL = GONE.replace("c;", "c\0d;")

# -- what is found first ---------------------------------------------------------------------------

TWO_ERRORS = {
    "a port that is missing and files of TLS": (
        f"server {{ listen 127.0.0.1:9 ssl; {GONE} proxy_pass 127.0.0.1; }}"
    ),
    "a group without servers and files of TLS": (
        "upstream u { server 127.0.0.1:5 backup; }"
        f"server {{ listen 127.0.0.1:9 ssl; {GONE} proxy_pass u; }}"
    ),
    "a host that is unknown and a key that is missing": (
        f"server {{ listen 127.0.0.1:9 ssl; {GONE} proxy_pass gone.invalid:5; }}"
    ),
    "files of proxy_ssl and a port that is missing": (
        "server { listen 127.0.0.1:9; proxy_ssl on; proxy_ssl_certificate /no/c; "
        "proxy_ssl_certificate_key /no/k; proxy_pass 127.0.0.1; }"
    ),
    "files of two servers, and a port that is missing in the third": (
        f"server {{ listen 127.0.0.1:9 ssl; {GONE} return x; }} "
        f"server {{ listen 127.0.0.1:7 ssl; {GONE} return x; }} "
        "server { listen 127.0.0.1:8; proxy_pass 127.0.0.1; }"
    ),
    "a port that is missing and an unknown variable": (
        "server { listen 127.0.0.1:9; access_log off; proxy_pass 127.0.0.1; } "
        "server { listen 127.0.0.1:8; return $gone; }"
    ),
}


@pytest.mark.parametrize("case", TWO_ERRORS)
def test_of_two_errors_nginx_s_is_found(case: str, tmp_path: Path) -> None:
    """Upstreams are completed after the proxy's settings of all servers and before those of ssl."""
    text = f"stream {{ {TWO_ERRORS[case]} }}"
    assert verdicts.nginx_says(text, tmp_path) == verdicts.we_say(text)


# -- where a message ends --------------------------------------------------------------------------

NUL = {  # a C string ends there, a counted one does not
    "a directive": SERVER.format('retu\0rn "ab";'),
    "a directive that is known up to there": SERVER.format("return\0 x;"),
    "a flag": SERVER.format("tcp_nodelay o\0n;"),
    "a bit": SERVER.format("ssl_protocols a\0b;"),
    "a word of a few": SERVER.format("ssl_verify_client o\0n;"),
    "a name of a variable": SERVER.format("set a\0b c;"),
    "a parameter": "upstream u { server 127.0.0.1:9 a\0b; }",
    "a host": SERVER.format("proxy_pass no.su\0ch.invalid:77;"),
    "a certificate": f"server {{ listen 127.0.0.1:9 ssl; {GONE_NUL} return x; }}",
    "a key": (
        "server { listen 127.0.0.1:9; proxy_ssl on; proxy_ssl_certificate /no/c\0d; "
        "proxy_ssl_certificate_key /no/k\0d; proxy_pass 127.0.0.1:5; }"
    ),
    "authorities": (
        "server { listen 127.0.0.1:9; proxy_ssl on; proxy_ssl_verify on; "
        "proxy_ssl_trusted_certificate /no\0ne; proxy_pass 127.0.0.1:5; }"
    ),
}


@pytest.mark.parametrize("case", NUL)
def test_a_message_ends_at_a_nul_where_nginx_s_does(case: str, tmp_path: Path) -> None:
    r"""What nginx prints as a C string ends at a NUL; the NUL of a counted one is written \x00."""
    text = f"stream {{ {NUL[case]} }}"
    theirs = [line.replace("\0", "\\x00") for line in verdicts.nginx_says(text, tmp_path)]
    ours = [line.replace("\0", "\\x00") for line in verdicts.we_say(text)]
    if "trusted" in text:  # the call of before 1.31
        theirs, ours = ([line.split('"')[1] for line in lines] for lines in (theirs, ours))
    assert theirs == ours


LONG = {
    "a variable": SERVER.format("return $NAME;"),
    "a variable of a log": f"log_format f '$NAME'; {RETURNS}",
    "a host": SERVER.format("proxy_pass NAME:80;"),
    "a port that is missing": SERVER.format("proxy_pass NAME;"),
    "a name of a variable": SERVER.format("set NAME y;"),
    "an address": SERVER.format("listen NAME:80;"),
    "a socket": SERVER.format("listen unix:/NAME;"),
    "a host of a group": "upstream u { server NAME:80; } " + RETURNS,
    "a directive": SERVER.format("NAME on;"),
    "a flag": SERVER.format("tcp_nodelay NAME;"),
    "a file": "include /NAME;",
    "a zone": SERVER.format("return x; limit_conn NAME 1;"),
    "a certificate": (
        "server { listen 127.0.0.1:9 ssl; ssl_certificate /NAME; ssl_certificate_key /k; "
        "return x; }"
    ),
    "a log": f"error_log /gone/NAME; {RETURNS}",
    "a warning with a place": f"geo $v {{ 1.1.1.1 NAME; 1.1.1.1 b; }} {RETURNS}",
    "an unknown word with a place": SERVER.format("allow NAME;"),
}


def says(kind: type[proxies.Proxy], text: str, folder: Path) -> tuple[list[str], list[str]]:
    """Return what -t writes to standard error and to the error log, in one form for both."""
    program = kind(text, folder / kind.name)
    (folder / "nginx.conf").write_text(text)
    log = folder / "error.log"
    log.unlink(missing_ok=True)
    words = [*program.command(), "-p", f"{folder}/", "-c", f"{folder}/nginx.conf", "-e", str(log)]
    done = subprocess.run(
        [*words, "-t"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=program._environment(),
        timeout=60,
        check=False,
    )
    said = [line.removeprefix(f"{program.name}: ") for line in done.stderr.splitlines()]
    return said, log.read_text().splitlines()


@pytest.mark.parametrize("size", [1024, 1980, 2000, 3000])
@pytest.mark.parametrize("case", LONG)
def test_long_names_are_cut_where_nginx_cuts_them(case: str, size: int, tmp_path: Path) -> None:
    """What is cut is the message, before its place; what has no place has the room of a line."""
    module = proxies.Nginx("stream {}", tmp_path)._modules("stream {}")
    text = " ".join([*module, f"pid {tmp_path}/pid; events {{}} stream {{ {LONG[case]} }}"])
    text = text.replace("NAME", "x" * size)
    nginx, nginx_log = says(proxies.Nginx, text, tmp_path)
    ours, our_log = says(proxies.Ngxstream, text, tmp_path)
    ours = [line for line in ours if not line.startswith("[notice] ")]  # what -t advises besides
    assert [line[:SURE] for line in nginx] == [line[:SURE] for line in ours]
    # a line that is cut has its length whatever the number of the process
    for line, our_line in zip(nginx_log, our_log, strict=True):
        assert len(line) == len(our_line) or unnumbered(line) == unnumbered(our_line)


def unnumbered(line: str) -> int:
    """Return the length of a line without the number of its process."""
    return len(re.sub(r" \d+#\d+: ", " ", line))


SURE: Final = 1960  # bytes of a line that the longest process number leaves for the rest
