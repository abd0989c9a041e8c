"""Configurations made by chance: both programs say the same of them, in the same order.

How many is COUNT, or what the environment says: ``make differential`` judges thousands.
"""

import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from ngxstream.process import cli
from tests.support import generated_conf, proxies, tools

COUNT: Final = int(os.environ.get("NGXSTREAM_GENERATED", "240"))
FIRST: Final = int(os.environ.get("NGXSTREAM_GENERATED_FROM", "0"))
BATCH: Final = 40
LOGS: Final = "pid logs/pid; error_log logs/error.log info; "

# What nginx 1.22 says otherwise than the version that is followed here.
OLDER: Final = (
    (re.compile(r'the invalid ("[^"]*") parameter'), r"invalid parameter \1"),
    (re.compile(r".*could not build optimal variables_hash.*\n"), ""),
    (re.compile(r".*(?:cannot work on this host|-N prints what is needed).*\n"), ""),  # ours alone
    (re.compile(r".*, which has no effect, in .*\n|.*\"ssl_verify_client\" has no effect at .*\n"),
     ""),  # ours alone
)
# It compares listen directives in an order of its own, and knows no resolver of an upstream and no
# headers in front of datagrams: its first complaint is not ours.
NOT_COMPARED: Final = (
    re.compile(r'duplicate "\S+" address and port pair'),
    re.compile(r'invalid parameter "deferred"'),
    re.compile(r'"resolver\w*" directive is not allowed here'),
    re.compile(r'unknown directive "proxy"'),  # of mail, a module of its own there
    re.compile(r'"proxy_protocol" parameter is incompatible with "udp"'),
)


def messages(stderr: str, prefix: Path) -> list[str]:
    """Return the warnings and the error of a test, without the name of the program."""
    for pattern, words in OLDER:
        stderr = pattern.sub(words, stderr)
    lines = [line.partition(": ")[2] for line in stderr.splitlines()]
    lines = [re.sub(r"[\x00-\x1f\x7f]", lambda m: f"\\x{ord(m[0]):02X}", line) for line in lines]
    return [line.replace(str(prefix), "/p") for line in lines if re.match(r"\[(?!notice)", line)]


Verdict = tuple[int, list[str]]


@pytest.fixture
def judges(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], tuple[Verdict, Verdict]]]:
    """Give ``judge(text)``: what nginx and this program say."""
    tools.require_nginx()
    before = signal.getsignal(signal.SIGINT)
    nginx = proxies.Nginx("", tmp_path / "nginx")
    ours = proxies.Ngxstream("", tmp_path / "ours")
    monkeypatch.chdir(ours.prefix)  # where paths of unix sockets begin

    def judge(text: str) -> tuple[Verdict, Verdict]:
        nginx.write(LOGS + text)
        ours.write(LOGS + text)
        theirs = nginx.test()
        capfd.readouterr()
        words = ["-p", str(ours.prefix), "-c", "conf/nginx.conf", "-e", "logs/error.log", "-t"]
        code = cli.main(["/usr/sbin/ngxstream", *words])
        said = capfd.readouterr().err
        return (
            (theirs.code, messages(theirs.stderr, nginx.prefix)),
            (code, messages(said, ours.prefix)),
        )

    yield judge
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("first", range(FIRST, FIRST + COUNT, BATCH))
def test_both_say_the_same(
    first: int, judges: Callable[[str], tuple[Verdict, Verdict]]
) -> None:
    """Verdict, warnings, error and place are those of nginx."""
    different = []
    for seed in range(first, first + BATCH):
        nginx, ours = judges(generated_conf.text(seed))
        if nginx != ours and not any(
            pattern.search(line) for pattern in NOT_COMPARED for line in nginx[1]
        ):
            different.append((seed, nginx, ours))
    assert [] == different


def test_a_configuration_is_the_same_for_its_seed() -> None:
    """What was found once can be looked at again; a good part of them is accepted or nearly so."""
    assert generated_conf.text(7) == generated_conf.text(7)
    assert 100 == len({generated_conf.text(seed) for seed in range(100)})
