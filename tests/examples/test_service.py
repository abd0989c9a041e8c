"""The unit of conf/ is one that systemd takes."""

import re
import subprocess
from pathlib import Path

from ngxstream.process import options
from tests.support import tools
from tests.support.proxies import ROOT

UNIT = ROOT / "conf" / "ngxstream.service"
INSTALLED = "/usr/local/sbin/ngxstream"  # where `make install` puts it


def test_systemd_finds_nothing_to_complain_about(tmp_path: Path) -> None:
    """``systemd-analyze verify`` is silent once the program is where the unit says."""
    analyze = tools.require("systemd-analyze")
    program = tmp_path / "ngxstream"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace(INSTALLED, str(program)))
    done = subprocess.run(
        [analyze, "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False
    )
    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)


def test_its_commands_are_ours() -> None:
    """Every command line is one that the program understands, in the foreground."""
    commands = re.findall(rf"(?m)^Exec\w+={INSTALLED} \$NGXSTREAM_OPTIONS (.*)$", UNIT.read_text())
    assert ['-g "daemon off;"', "-s reload"] == commands
    spoken = [[w.strip('"') for w in re.findall(r'"[^"]*"|\S+', one)] for one in commands]
    start, reload = (options.Options(["ngxstream", *words]) for words in spoken)
    assert ("daemon off;", "reload") == (start.directives, reload.signal)
