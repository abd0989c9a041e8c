"""The worked examples of conf/ are configurations that both programs accept."""

import re
import shutil
from pathlib import Path

import pytest

from tests.support import tools
from tests.support.certs import Authority
from tests.support.proxies import PROGRAMS, ROOT, Proxy

EXAMPLES = sorted((ROOT / "conf").glob("*.conf"))
# An example that uses what nginx does not have says so in its header with these words.
EXTENSION = "Only ngxstream serves this file"

every_example = pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)


@every_example
@pytest.mark.parametrize("program", PROGRAMS.values(), ids=list(PROGRAMS))
def test_example_passes_the_configuration_test(
    program: type[Proxy], path: Path, tmp_path: Path
) -> None:
    """``-t`` finds nothing to complain about, not even a warning."""
    text = path.read_text()
    if program.name == "nginx" and EXTENSION in text:
        pytest.skip("the example is about an extension")
    ports = [int(port) for port in re.findall(r"\blisten\s+(?:\S*:)?(\d+)\b", text)]
    if min(ports) < 1024:
        tools.require_root()  # -t binds what it is to listen on
    text = text.replace("198.51.100.1:", "127.0.0.1:")  # an address that this machine has
    proxy = program(text, tmp_path)
    shutil.copytree(path.parent, proxy.prefix / "conf", dirs_exist_ok=True)
    if "ssl_certificate " in text:
        (proxy.prefix / "conf/certs").mkdir()
        Authority(proxy.prefix / "conf/certs").issue("example.com")
    verdict = proxy.test(text)
    file = proxy.conf_file
    said = f"{program.name}: the configuration file {file} syntax is ok\n"
    said += f"{program.name}: configuration file {file} test is successful\n"
    # what this machine's network lacks is another machine's business
    about_here = re.compile(
        rf"(?m)^{program.name}: \[warn\] .*"
        r'(?: cannot work on this host: |"user" directive makes sense only if ).*\n'
    )
    assert (0, said) == (verdict.code, about_here.sub("", verdict.stderr))


@every_example
def test_example_explains_itself(path: Path) -> None:
    """The file begins with a comment of at least three lines."""
    lines = path.read_text().splitlines()
    assert all(line.startswith("#") for line in lines[:3])
