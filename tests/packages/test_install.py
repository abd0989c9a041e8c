"""`make install` and `make uninstall`: all is made, works, and is removed."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import crossplane
import pytest

from tests.support import clients, ports, tools
from tests.support.proxies import ROOT
from tests.support.waiting import wait_until

CROSSPLANE = Path(crossplane.__file__).parents[1]


class Place:
    """An installation below a folder."""

    def __init__(self, folder: Path, destdir: str = "") -> None:
        """Args: destdir: "" for paths below the folder, else the folder that stands for /"""
        at = "" if destdir else str(folder)
        self.folder, self.destdir = folder, destdir
        self.prefix, self.conf = f"{at}/usr/local", Path(f"{at}/etc/ngxstream/ngxstream.conf")
        self.pid = Path(f"{at}/run/ngxstream.pid")
        self.words = [
            f"PREFIX={self.prefix}", f"SYSCONF={at}/etc", f"LOGS={at}/var/log/ngxstream",
            f"PID={self.pid}", f"CROSSPLANE={CROSSPLANE}", f"PYTHON={sys.executable}",
            f"DESTDIR={destdir}", "LAYOUT=--no-compile",
        ]

    def make(self, verb: str, *words: str, umask: int = -1) -> str:
        """Call the Makefile; return what it said. Args: words: variables that replace the usual"""
        done = subprocess.run(
            [tools.require("make"), "-C", str(ROOT), "--no-print-directory", verb, *self.words,
             *words],
            capture_output=True, text=True, check=False, timeout=120, umask=umask,
        )
        assert 0 == done.returncode, done.stderr
        return done.stdout

    def run(
        self, *words: str, program: str = "sbin/ngxstream"
    ) -> "subprocess.CompletedProcess[str]":
        """Run what was installed."""
        return subprocess.run(
            [f"{self.prefix}/{program}", *words], capture_output=True, text=True, check=False,
            timeout=120, cwd="/",
        )

    def files(self) -> set[str]:
        """Return all that there is, but what Python's compiler has made."""
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*")
                if "__pycache__" not in path.parts}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """Give an installation, whose program is ended."""
    made = Place(tmp_path / "host")
    (tmp_path / "host/run").mkdir(parents=True)
    made.make("install")
    yield made
    if made.pid.exists():
        made.run("-s", "stop")
        wait_until(lambda: not made.pid.exists(), what="the program ends")


def test_the_first_configuration_serves(place: Place) -> None:
    """As installed it passes the test; started, it answers, reloads, and gives way to a new one."""
    port = ports.free_port()
    first = place.conf.parent / "conf.d/first.conf"
    first.write_text(first.read_text().replace("5300", str(port)))
    if os.geteuid() == 0:  # workers are nobody's, who has to reach the folders of the test
        place.conf.write_text("user root;\n" + place.conf.read_text())
    assert "test is successful" in place.run("-t").stderr
    done = place.run()
    assert (0, "") == (done.returncode, done.stderr)
    assert b"ngxstream serves: a TCP session" in clients.tcp_exchange(("127.0.0.1", port))
    assert 0 == place.run("-s", "reload").returncode
    old = place.pid.read_text()
    done = place.run(program="lib/ngxstream/upgrade")
    assert (0, "") == (done.returncode, done.stderr)
    assert f"the master process {old.strip()} has a successor" in done.stdout
    wait_until(lambda: not Path(f"{place.pid}.oldbin").exists(), what="the old master has ended")
    assert old != place.pid.read_text()
    assert b"ngxstream serves: a UDP session" in clients.udp_exchange(("127.0.0.1", port), b"?")
    place.run("-s", "stop")
    wait_until(lambda: not place.pid.exists(), what="the program ends")
    place.make("uninstall")


def test_an_upgrade_waits_for_strangers_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Root's masters come first; those of others, who may be pretenders, share one patience."""
    path = ROOT / "conf/packaging/upgrade.py"
    spec = importlib.util.spec_from_file_location("upgrade", path)
    assert spec is not None
    assert spec.loader is not None
    upgrade = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(upgrade)
    owners = {11: 1000, 12: 0, 13: 1000, 14: 0, 15: 1001}
    now, asked = [0.0], []

    def replace(pid: int) -> bool:
        asked.append(pid)
        now[0] += 0.75 * upgrade.PATIENCE_S
        return owners[pid] == 0

    monkeypatch.setattr(upgrade, "masters", lambda: iter(owners))
    monkeypatch.setattr(upgrade, "successor", lambda pid: 0)
    monkeypatch.setattr(upgrade, "owner", owners.__getitem__)
    monkeypatch.setattr(upgrade, "replace", replace)
    monkeypatch.setattr(upgrade.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(upgrade.sys, "argv", ["upgrade"])
    assert 1 == upgrade.main()
    assert [12, 14, 11, 13] == asked
    said = capsys.readouterr()
    assert 2 == said.out.count("has a successor")
    assert 3 == said.err.count("could not be replaced")


def test_its_paths_are_those_that_were_chosen(place: Place) -> None:
    """-V names them; unit and rotation of logs have them, and the program's own path."""
    said = place.run("-V").stderr
    assert f"--conf-path={place.conf} " in said
    assert f"--pid-path={place.pid} " in said
    unit = Path(f"{place.prefix}/lib/systemd/system/ngxstream.service").read_text()
    assert f"\nExecStart={place.prefix}/sbin/ngxstream " in unit
    assert f"\nPIDFile={place.pid}\n" in unit
    rotation = (place.conf.parents[1] / "logrotate.d/ngxstream").read_text()
    assert rotation.startswith(f"{place.folder}/var/log/ngxstream/*.log ")
    assert f"{place.pid})" in rotation
    found = place.run("files", program="bin/ngxstreamctl").stdout.strip()
    assert f"{place.prefix}/share/ngxstream" == found
    assert Path(found, "conf/quickstart.conf").is_file()


def test_uninstall_leaves_nothing(tmp_path: Path) -> None:
    """All that was made is gone, also what was compiled since; what was there before stays."""
    made = Place(tmp_path)
    before = tmp_path / "etc/others.conf"
    before.parent.mkdir()
    before.touch()
    made.words[-1] = "LAYOUT="
    made.make("install")
    assert list(Path(made.prefix).rglob("*.pyc"))
    made.run("-t")
    log = tmp_path / "var/log/ngxstream/error.log"
    log.unlink(missing_ok=True)
    made.make("uninstall")
    assert {"etc", "etc/others.conf"} == made.files()
    assert [] == list(tmp_path.rglob("__pycache__"))


def test_what_people_have_changed_stays(tmp_path: Path) -> None:
    """A changed configuration outlives another install, and uninstall, which names it."""
    made = Place(tmp_path)
    made.make("install")
    made.conf.write_text("events { }\n")
    assert f"kept, as it was changed: {made.conf}" in made.make("install")
    assert f"kept, as it was changed: {made.conf}" in made.make("uninstall")
    assert "events { }\n" == made.conf.read_text()
    assert {"etc", "etc/ngxstream", "etc/ngxstream/ngxstream.conf"} == made.files()


def test_what_people_have_removed_is_not_made_again(tmp_path: Path) -> None:
    """Another install, which is an upgrade, leaves the first server out if it was removed."""
    made = Place(tmp_path)
    made.make("install")
    first = made.conf.parent / "conf.d/first.conf"
    first.unlink()
    for _ in range(2):
        assert f"left out, as it was removed: {first}" in made.make("install")
        assert not first.exists()
    made.make("uninstall")
    assert set() == made.files()


def test_other_variables_lose_no_configuration(tmp_path: Path) -> None:
    """A changed one stays if a later install or uninstall is told of another folder."""
    made = Place(tmp_path)
    made.make("install")
    made.conf.write_text("events { }\n")
    other = f"SYSCONF={tmp_path}/other"
    assert f"kept, as it was changed: {made.conf}" in made.make("install", other)
    assert "events { }\n" == made.conf.read_text()
    changed = tmp_path / "other/ngxstream/ngxstream.conf"
    changed.write_text("events {  }\n")
    assert f"kept, as it was changed: {changed}" in made.make("uninstall")
    assert "events {  }\n" == changed.read_text()


def test_all_can_reach_what_an_umask_would_hide(tmp_path: Path) -> None:
    """Workers, which are another user's, read the program whatever the umask of who installs."""
    made = Place(tmp_path)
    made.make("install", umask=0o077)
    hidden = [path for path in tmp_path.rglob("*")
              if (0o055 & ~path.stat().st_mode and path.is_dir()) or 0o044 & ~path.stat().st_mode]
    assert [] == hidden


def test_a_configuration_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    """One that install did not make is neither changed nor removed."""
    made = Place(tmp_path)
    made.conf.parent.mkdir(parents=True)
    made.conf.write_text("# mine\n")
    assert f"kept, as it was there: {made.conf}" in made.make("install")
    made.make("uninstall")
    assert "# mine\n" == made.conf.read_text()


def test_the_record_is_replaced_as_a_whole(tmp_path: Path) -> None:
    """An install that ends half-way leaves the record of the former one."""
    made = Place(tmp_path)
    made.make("install")
    record = Path(f"{made.prefix}/lib/ngxstream/installed.json")
    former, text = tmp_path / "former", record.read_text()
    former.hardlink_to(record)
    made.make("install", f"SYSCONF={tmp_path}/other")
    assert text == former.read_text() != record.read_text()


def test_what_a_release_has_no_more_is_removed(tmp_path: Path) -> None:
    """An install over a former one removes the files that only that one had."""
    made = Place(tmp_path)
    made.make("install")
    lib = Path(f"{made.prefix}/lib/ngxstream")
    record = json.loads((lib / "installed.json").read_text())
    former = lib / "ngxstream/former.py"
    former.touch()
    record["files"][str(former)] = ""
    (lib / "installed.json").write_text(json.dumps(record))
    made.make("install")
    assert not former.exists()


def test_destdir_is_named_nowhere(tmp_path: Path) -> None:
    """By way of DESTDIR the same files are made, and none of them knows of it."""
    staged, plain = Place(tmp_path / "stage", str(tmp_path / "stage")), Place(tmp_path / "plain")
    for made in (staged, plain):
        made.make("install")
    assert plain.files() == staged.files()
    needle = str(tmp_path / "stage").encode()
    naming = [path for path in (tmp_path / "stage").rglob("*")
              if path.is_file() and needle in path.read_bytes()]
    assert [] == naming
    staged.make("uninstall")
    assert set() == staged.files()


def test_without_an_installation_uninstall_says_so(tmp_path: Path) -> None:
    """There is no record: nothing is removed, and the exit code is not 0."""
    words = [sys.executable, str(ROOT / "conf/packaging/lay_out.py"), "uninstall", "--prefix",
             str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert 1 == done.returncode
    assert done.stderr.startswith("lay_out: nothing is installed")


def test_the_manual_names_every_option() -> None:
    """ngxstream(8), and the completions, know what the program takes."""
    usage = subprocess.run(
        [sys.executable, "-m", "ngxstream", "-h"], capture_output=True, text=True, check=False,
        cwd=ROOT, timeout=60,
    ).stderr
    letters = set(re.findall(r"(?m)^  (?:-\?,)?-(\w)", usage))
    assert {"t", "s", "h", "N"} <= letters
    page = (ROOT / "docs/man/ngxstream.8").read_text()
    assert set() == {one for one in letters if f"\\-{one}" not in page}
    for script in ("ngxstream.bash", "_ngxstream"):
        text = (ROOT / "conf/completion" / script).read_text()
        assert set() == {one for one in letters if f"-{one}" not in text}


def test_shells_take_the_completions() -> None:
    """bash, and zsh where it is installed, find no fault in them."""
    folder = ROOT / "conf/completion"
    for shell, names in (("bash", ("ngxstream.bash", "ngxstreamctl.bash")),
                         ("zsh", ("_ngxstream", "_ngxstreamctl"))):
        if shell == "bash" or shutil.which(shell):
            for name in names:
                subprocess.run([shell, "-n", str(folder / name)], check=True, timeout=60)


def test_the_profile_lets_a_master_signal_its_workers() -> None:
    """They are another user's: without CAP_KILL one that hangs could not be ended."""
    assert "\n  capability kill,\n" in (ROOT / "conf/packaging/apparmor").read_text()


def test_apparmor_takes_the_profile() -> None:
    """Its parser finds no fault in it."""
    parser = tools.require("apparmor_parser")
    done = subprocess.run(
        [parser, "-Q", "-K", "-T", str(ROOT / "conf/packaging/apparmor")], capture_output=True,
        text=True, check=False, timeout=60,
    )
    assert 0 == done.returncode, done.stderr
