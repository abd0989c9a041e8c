"""Every command and every configuration of the pages, done as it stands there.

Each page has a machine of its own (tests/support/machine.py), on which its blocks are executed from
the top down: tests/support/pages.py says what is done with a block of which language.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import surroundings
from tests.support.machine import HOME, Machine
from tests.support.netns import Namespaces
from tests.support.pages import (
    PAGES,
    Block,
    Command,
    blocks,
    commands,
    page_id,
    shows,
    whole,
)
from tests.support.waiting import wait_until

# Pages whose blocks are executed by a test of their own, which this file leaves to it.
ELSEWHERE = {
    "docs/adding-a-module.md": "tests/examples/test_adding_a_module.py",
    **{page_id(path): "tests/structure/test_manual.py" for path in PAGES
       if path.parent.name == "manual"},
}
# Commands that are not executed here: a pattern of the line, and why.
NOT_RUN = {
    r"make (run|install|uninstall|deb)\b": "serves for ever, or installs: `.ci/fresh` does them",
    r"update-alternatives |apparmor_parser |aa-enforce ": "needs the package, as tests/packages do",
    r"make (test|check|fuzz|bench|docs|fresh|differential)\b": "takes minutes, or is this very run",
    r"python3 -m venv |\S*/pip install|\S*pip3? install|pipx ": "asks a package index",
    r"apt(-get)? ": "asks the mirror of a distribution",
    r"systemctl |journalctl |systemd-": "needs systemd as process 1",
    r"/opt/ngxstream/bin/": "needs an installation in a venv, from a package index",
    r"mypy ": "belongs to the extra `dev`, which tests do without",
    r"docker |podman |kubectl ": "needs a registry, or a cluster",
    r"ssh ": "needs another host",
    r"prometheus-nginx-exporter ": "runs for ever: tests/wire/test_prometheus.py does it",
    r"promtool ": "tests/examples/test_monitoring.py does it",
    r"ngxstreamctl top\b": "draws until it is ended",
    r"ln -sf? /opt/ngxstream/": "the machine has the programs of this tree",
    r"sysctl ": "changes the kernel of this machine",
}
# -t says these of any machine: what this one's network lacks, and http blocks that are skipped.
ABOUT_HERE = re.compile(
    r' cannot work on this host: |"user" directive makes sense only if |"http" block is skipped'
    r"|worker_connections exceed open file resource limit"
)
# What only looks, so that it may be asked again until it shows what the page does.
LOOKS = re.compile(
    r"(?:grep|tail|cat|ss|ls"
    r"|ngxstreamctl (?:status|servers|upstreams|sessions|log|reloads|explain)) "
)
ALL = {page_id(path): blocks(path) for path in PAGES}
EXECUTED = ("sh", "console")


def reason_not_to_run(script: str) -> str:
    """Return why a command is not executed here; empty for one that is."""
    words = re.sub(r"^(?:sudo |\w+=\S* )+", "", script)
    return next((why for pattern, why in NOT_RUN.items() if re.match(pattern, words)), "")


def lines_of(script: str) -> list[str]:
    """Return the commands of a ``sh`` block: lines, with those that continue them."""
    found: list[str] = []
    ends = ""
    for line in script.splitlines():
        if ends or (found and found[-1].endswith("\\")) or line.startswith((" ", "\t", "}")):
            found[-1] += "\n" + line
            ends = "" if line == ends else ends
        elif line.strip():
            found.append(line)
            heredoc = re.search(r"<<-?'?(\w+)'?", line)
            ends = heredoc[1] if heredoc else ""
    return found


def test_every_exception_is_used() -> None:
    """A reason not to run a command stands for some command of a page."""
    scripts = [
        script for found in ALL.values() for block in found if block.language in EXECUTED
        for script in (lines_of(block.text) if block.language == "sh"
                       else [command.script for command in commands(block.text)])
    ]
    used = {why for script in scripts if (why := reason_not_to_run(script))}
    assert set(NOT_RUN.values()) == used
    named = {name for why in used for name in re.findall(r"tests/[\w/]+\.py", why)}
    assert [] == [name for name in named if not (surroundings.ROOT / name).is_file()]


@pytest.fixture
def machine(namespaces: Namespaces) -> Iterator[Machine]:
    """Give a machine of its own."""
    with Machine(namespaces, surroundings.HOSTS) as made:
        yield made


def configurations(page: str) -> Iterator[tuple[Block, str]]:
    """Return the configurations of a page, each with the path of its file."""
    folder = f"/etc/ngxstream/{page.replace('/', '-').removesuffix('.md')}"
    for number, block in enumerate(ALL[page]):
        if block.language == "nginx":
            yield block, f"{folder}/{number}.conf"


def test_a_file_with_a_name_can_be_copied() -> None:
    """A `stream` block in it has the `events` block that nginx and ngxstream want beside it."""
    named = [(block, {line.split("{")[0].strip() for line in block.text.splitlines()})
             for page in ALL for block, _ in configurations(page) if block.option]
    streams = [(block.place, names) for block, names in named if "stream" in names]
    assert 5 < len(streams)
    assert [] == [place for place, names in streams if "events" not in names]


@pytest.mark.root
def test_every_configuration_is_judged_well(machine: Machine) -> None:
    """By ``-t``, and without a warning about anything but the machine."""
    found = [(block, path) for page in ALL for block, path in configurations(page)
             if page not in ELSEWHERE]
    for block, path in found:
        text = whole(block.text)
        surroundings.provide_files(machine, text, path)
        for log in re.findall(r"(/var/log/\S+)/[^/;\s]+\s*[;\w]", text):
            # a command of the page makes it
            machine.path(log).mkdir(parents=True, exist_ok=True)
        machine.write(path, text)
        for other in ALL[block.page]:
            if other.language == "python" and other.option:
                machine.write(str(Path(path).parent / Path(other.option).name), other.text)
    done = machine.run("sh", "-c", f'cd {surroundings.ROOT} && exec "$@"', "sh",
                       surroundings.PYTHON, "-m", "tests.support.judge",
                       *(path for _, path in found), timeout=300)
    bad = []
    for (block, _), (code, said) in zip(found, json.loads(done.stdout), strict=True):
        lines = [line for line in said.splitlines() if not ABOUT_HERE.search(line)
                 and not line.endswith((" syntax is ok", " test is successful"))]
        if code or lines:
            bad.append(f"{block.place}: {said}")
    assert not bad, "\n".join(bad)
    assert len(found) > 20


class Story:
    """A page, executed from the top down on a machine."""

    def __init__(self, machine: Machine) -> None:
        """Begin."""
        self._machine = machine
        self._variables = ""  # what the shells of earlier blocks have set

    def execute(self, block: Block) -> None:
        """Do what is to be done with a block."""
        if block.language == "sh":
            for script in lines_of(block.text):
                self._succeed(block, script)
        elif block.language == "console":
            for command in commands(block.text):
                self._compare(block, command)
        elif block.option.startswith("/"):
            text = whole(block.text) if block.language == "nginx" else block.text
            surroundings.provide_files(self._machine, text, block.option)
            self._machine.write(block.option, text)

    def _succeed(self, block: Block, script: str) -> None:
        if reason_not_to_run(script):
            return
        done = self._machine.shell(self._variables + script)
        assert done.returncode == 0, f"{block.place}: {script}\n{done.stdout}"
        if re.fullmatch(r"\w+=\S+(\s+#.*)?", script):
            self._variables += script + "\n"

    def _compare(self, block: Block, command: Command) -> None:
        if reason_not_to_run(command.script):
            return
        printed = ""

        def is_shown() -> bool:
            nonlocal printed
            printed = self._machine.run("sh", "-c", self._variables + command.script).stdout
            return shows(command.expected, printed)

        if re.fullmatch(r"\w+=\S+", command.script):
            self._variables += command.script + "\n"
        elif LOOKS.match(command.script):
            try:
                wait_until(is_shown, what="what the page shows", every=0.2)
            except AssertionError:
                raise AssertionError(f"{block.place}: {command.script}\n{printed}") from None
        else:
            assert is_shown(), f"{block.place}: {command.script}\n{printed}"


STORIES = [
    page for page, found in ALL.items() if page not in ELSEWHERE
    and any(block.language in EXECUTED for block in found)
]


@pytest.mark.root
@pytest.mark.parametrize("page", STORIES)
def test_every_command_does_what_the_page_says(
    page: str, machine: Machine, namespaces: Namespaces, tmp_path: Path
) -> None:
    """On a machine with the servers that the page speaks of; no log has an alert then."""
    with surroundings.of(page, machine, tmp_path):
        story = Story(machine)
        for block in ALL[page]:
            story.execute(block)
    assert [] == machine.faults()


def test_pages_run_in_a_folder_of_their_own() -> None:
    """The folder of commands is none of this machine's."""
    assert HOME not in {"/", str(Path.home())}
