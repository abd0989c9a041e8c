"""The other master during an upgrade, where none of it is there; whole upgrades are in
test_upgrade.py and tests/continuity.
"""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ngxstream.core.log import Log
from ngxstream.process import upgrade
from ngxstream.process.other_master import REFUSED, OtherMaster
from tests.support.in_process import LogTarget
from tests.support.proxies import ROOT


def master(folder: Path) -> Any:
    """Return what a master tells of itself."""
    to = Log([LogTarget()])
    cycle = SimpleNamespace(main=SimpleNamespace(pid=str(folder / "p.pid")), log=to, generation=1,
                            listenings=[], lingering=[])
    return SimpleNamespace(cycle=cycle, old=[], children=[], is_ending=False,
                           later=lambda *_: None)


def said(made: Any) -> str:
    """Return what it has logged."""
    return str(made.cycle.log.targets[0].lines)


def test_without_an_upgrade_there_is_no_other_master(tmp_path: Path) -> None:
    """All methods may be called, and do nothing."""
    other = OtherMaster(master(tmp_path), None)
    other.learn()
    other.announce(starting=True)
    other.hand_over()
    other.look()
    assert (False, False, 0) == (other.is_alive, other.started, other.pid)


def test_a_pid_file_that_cannot_be_renamed_stops_an_upgrade(tmp_path: Path) -> None:
    """Nothing was started, and it is said why."""
    made = master(tmp_path)
    other = OtherMaster(made, None)
    other.change_binary()
    assert not other.is_alive
    path = tmp_path / "p.pid"
    assert f"rename() {path} to {path}.oldbin failed" in said(made)


def test_a_second_upgrade_is_refused_while_one_goes_on(tmp_path: Path) -> None:
    """Whether the older master or this one has begun the upgrade."""
    made = master(tmp_path)
    link, theirs = upgrade.Link.pair()
    other = OtherMaster(made, link)
    assert (True, False, True) == (other.is_alive, other.started, other.is_older)
    other.pid = os.getppid()  # the older master lives
    other.change_binary()
    assert REFUSED in said(made)
    link.close()
    theirs.close()


ORPHANED = """
import os
from types import SimpleNamespace
from ngxstream.process import other_master, upgrade

link, theirs = upgrade.Link.pair()
older = os.getpid()
if os.fork():
    link.tell([], (), ())
    os._exit(0)
while os.getppid() == older:
    os.sched_yield()
link.close()
os.environ[upgrade.VARIABLE] = str(theirs.detach())
newer = SimpleNamespace(
    takeover=SimpleNamespace(inherit=lambda **said: print("inherits", said)),
    udp_is_ours=False, tell_main=lambda: print("tells"),
    cycle=SimpleNamespace(main=SimpleNamespace(pid="/dev/null/none")),
)
link = upgrade.Link.of_environment()
other = other_master.OtherMaster(newer, link)
print(link.latest() is not None, other.pid == older)
other.look()
print(other.is_alive)
"""


def test_an_older_master_that_dies_before_the_new_one_asks_is_gone() -> None:
    """Another process is the new one's parent by then; what the older one said is heard."""
    done = subprocess.run(
        [sys.executable, "-c", ORPHANED], env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )
    said = "True True\ninherits {'crashed': False, 'had_udp': True}\ntells\nFalse\n"
    assert (said, "") == (done.stdout, done.stderr)
