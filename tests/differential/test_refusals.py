"""A bad use of each directive, judged by nginx and by ngxstream: the same words and place."""

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ngxstream.process import cli
from tests.support import proxies, refusals, tools

HERE = " in /p/conf/nginx.conf:1"
NEWER = ("unknown directive", "directive is not allowed here")  # than nginx 1.22
CASES = [
    pytest.param(name, case, id=f"{name}-{number}")
    for name, cases in refusals.REFUSALS.items()
    for number, case in enumerate(cases, 1)
]


def first_error(stderr: str, prefix: Path) -> str:
    """Return the first [emerg] of a test of the configuration, with the prefix spelled /p."""
    found = re.search(r"(?m)^\w+: \[emerg\] (.*)$", stderr)
    assert found, stderr
    return found[1].replace(str(prefix), "/p")


@pytest.fixture
def our_verdict(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> Iterator[proxies.Ngxstream]:
    """Give a runner of -t in this process (a process for each case would take minutes)."""
    ours = proxies.Ngxstream("", tmp_path)
    before = signal.getsignal(signal.SIGINT)

    def verdict(conf: str) -> str:
        ours.write(conf)
        capfd.readouterr()
        words = ["-p", str(ours.prefix), "-c", "conf/nginx.conf", "-e", "logs/error.log", "-t"]
        code = cli.main(["/usr/sbin/ngxstream", *words])
        said = capfd.readouterr().err
        assert code == 1, said
        assert said.endswith(f"ngxstream: configuration file {ours.conf_file} test failed\n")
        return first_error(said, ours.prefix)

    yield verdict
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("name", "case"), CASES)
def test_a_bad_use_is_refused(name, case, our_verdict, tmp_path) -> None:
    """Each refusal has the words of nginx, ours included where nginx 1.22 does not know better."""
    said = our_verdict(case.conf())
    assert said in (case.words, case.words + HERE)
    if not case.ours:
        tools.require_nginx()
        nginx = proxies.Nginx(case.conf(), tmp_path)
        theirs = first_error(nginx.test().stderr, nginx.prefix)
        if not any(words in theirs for words in NEWER):
            assert theirs == said


@pytest.mark.effect("proxy_downstream_buffer", "proxy_upstream_buffer")
@pytest.mark.parametrize("name", ["proxy_downstream_buffer", "proxy_upstream_buffer"])
def test_an_old_name_is_warned_of_and_taken(name: str, both) -> None:
    """The old names of proxy_buffer_size are accepted with nginx's warning."""
    text = refusals.PLACES["server"].replace("TEXT", f"{name} 4k;")
    said = []
    for program in both(text, start=False):
        verdict = program.test()
        assert 0 == verdict.code
        lines = [line for line in verdict.stderr.splitlines() if "[warn]" in line]
        said.append([re.sub(r"^\w+: | in /.*", "", line) for line in lines])
    assert said[0] == said[1]
    (line,) = said[1]
    words = f'the "{name}" directive is deprecated, use the "proxy_buffer_size" directive instead'
    assert f"[warn] {words}" == line
