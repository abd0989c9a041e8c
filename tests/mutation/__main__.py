"""Changes the program in one place at a time and sees whether the tests notice.

    python -m tests.mutation                       PER_MODULE mutants of each module of GUARDS
    python -m tests.mutation event/udp core/shm    these modules
    python -m tests.mutation -n 0 wire/dns         all mutants of a module
    python -m tests.mutation -o FILE ...           the result of each mutant to FILE as well
    python -m tests.mutation --only FILE           once more those that survived in FILE

Each mutant is run in a copy of the tree against the module's own tests and its neighbours: the
file of the same name in tests/unit, those that import it, and those that GUARDS names. A mutant
is killed when a test fails, or when the tests take more than four times as long as without it.
Survivors are printed: each is a test that is missing, or a change that makes no difference. Which
mutants are tried is drawn by chance, always the same way (-s for another way). Takes from 20
minutes to an hour; not part of continuous integration.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import itertools
import os
import queue
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Final, NamedTuple

from tests.mutation import operators

ROOT: Final = Path(__file__).resolve().parents[2]
PER_MODULE: Final = 8
COPIED: Final = ("ngxstream", "tests", "conf", "docs", "setup.cfg", "pyproject.toml", "README.md",
                 "LICENSE", "Makefile", ".ci")
KILLED, SURVIVED, LATE = "killed", "survived", "killed (late)"

# Test files that take longer than 20 s: asked by those alone that name them.
HEAVY: Final = ("tests/unit/conf/test_reader_nginx.py", "tests/unit/process/test_master.py")
FEW: Final = 4  # files that are asked because they import a module

# What guards something: bytes, rights, time, memory, service. With the tests to be asked beside its
# own and those unit tests that import it: cheap ones first.
GUARDS: Final[dict[str, tuple[str, ...]]] = {
    "core/escape": (),
    "core/files": ("tests/unit/modules/log/test_sinks.py",),
    "core/gather": ("tests/unit/modules/log/test_sinks.py",),
    "core/hostnames": ("tests/unit/modules/test_map.py",),
    "core/inet": ("tests/unit/stream/test_listen.py",),
    "core/log": ("tests/unit/core/test_syslog.py", "tests/wire/test_log_forgery.py"),
    "core/regex": ("tests/fuzz/test_regex.py",),
    "core/regex_machine": ("tests/unit/core/test_regex.py", "tests/fuzz/test_regex.py"),
    "core/regex_program": ("tests/unit/core/test_regex.py", "tests/fuzz/test_regex.py"),
    "core/regex_risk": ("tests/unit/core/test_regex.py",),
    "core/shm": ("tests/unit/core/test_shm_ledger.py", "tests/unit/core/test_shm_counts.py"),
    "core/shm_counts": ("tests/unit/modules/test_limit_conn.py",),
    "core/shm_ledger": ("tests/unit/core/test_shm_counts.py",),
    "core/shm_store": ("tests/unit/modules/ssl/test_sessions.py",),
    "core/shm_zones": ("tests/unit/process/test_generations.py",),
    "wire/client_hello": ("tests/fuzz/test_wire.py", "tests/unit/modules/test_ssl_preread.py"),
    "wire/dns": ("tests/unit/event/test_resolver.py", "tests/fuzz/test_wire.py"),
    "wire/proxy_protocol": (
        "tests/unit/stream/test_proxy_protocol.py",
        "tests/unit/event/test_udp_proxied.py",
        "tests/fuzz/test_wire.py",
    ),
    "wire/quic": ("tests/unit/wire/test_quic_hello.py",),
    "wire/quic_hello": (),
    "wire/quic_initial": ("tests/unit/wire/test_quic_hello.py",),
    "wire/reader": ("tests/unit/wire/test_client_hello.py",),
    "ipc/codec": (
        "tests/unit/ipc/test_port.py",
        "tests/unit/modules/proxy/test_udp_state.py",
        "tests/unit/stream/test_travel.py",
        "tests/unit/process/test_mailbox.py",
    ),
    "ipc/port": ("tests/unit/process/test_mailbox.py", "tests/unit/process/test_channel.py"),
    "conf/builder": ("tests/unit/conf/test_reader.py",),
    "conf/reader": ("tests/unit/conf/test_builder.py", "tests/kit/test_payload.py"),
    "conf/spelling": ("tests/unit/conf/test_reader.py",),
    "conf/tokens": ("tests/unit/conf/test_spelling.py", "tests/unit/conf/test_reader.py"),
    "conf/units": (),
    "event/accept": (),
    "event/client_sockets": (),
    "event/datagram": ("tests/unit/event/test_udp.py",),
    "event/dns_query": ("tests/unit/event/test_resolver.py",),
    "event/inherited": ("tests/unit/process/test_rendezvous.py",),
    "event/libcrypto": (),
    "event/libssl_context": ("tests/wire/test_tls_termination.py",),
    "event/listening": ("tests/unit/event/test_accept.py", "tests/unit/event/test_inherited.py"),
    "event/loop": ("tests/unit/event/test_accept.py", "tests/unit/event/test_udp.py"),
    "event/portions": ("tests/unit/event/test_pump.py",),
    "event/pump": ("tests/wire/test_first_bytes.py",),
    "event/recycle": (),
    "event/resolver": (),
    "event/eviction": ("tests/unit/event/test_accept.py",),
    "event/timers": (),
    "event/turn_budget": (
        "tests/unit/stream/test_phases.py",
        "tests/unit/stream/test_servers.py",
        "tests/unit/stream/test_captures.py",
    ),
    "event/udp": ("tests/unit/event/test_udp_table.py",),
    "event/udp_clients": ("tests/unit/event/test_udp.py", "tests/unit/event/test_udp_new.py"),
    "event/udp_new": ("tests/unit/event/test_udp.py",),
    "event/udp_proxied": ("tests/wire/test_udp_proxy_protocol.py",),
    "event/wakeups": (
        "tests/unit/event/test_accept.py",
        "tests/unit/event/test_udp_new.py",
        "tests/unit/process/test_arrival.py",
    ),
    "stream/captures": (),
    "stream/content": ("tests/unit/process/test_departure.py",),
    "stream/phases": (),
    "stream/preread": ("tests/wire/test_first_bytes.py",),
    "stream/proxy_protocol": ("tests/wire/test_udp_proxy_protocol.py",),
    "stream/drawing": (
        "tests/unit/modules/upstream/test_hash.py",
        "tests/unit/modules/upstream/test_random.py",
    ),
    "stream/peer_state": (
        "tests/unit/stream/test_round_robin.py",
        "tests/unit/modules/upstream/test_zone.py",
    ),
    "stream/round_robin": (
        "tests/unit/modules/upstream/test_least_conn.py",
        "tests/unit/modules/upstream/test_hash.py",
        "tests/unit/modules/upstream/test_least_time.py",
        "tests/unit/modules/upstream/test_zone.py",
    ),
    "stream/servers": (),
    "stream/session": ("tests/unit/stream/test_travel.py",),
    "stream/travel": ("tests/unit/process/test_adoption.py",),
    "modules/access": ("tests/differential/test_refusals.py",),
    "modules/limit_conn": (
        "tests/unit/stream/test_travel.py",
        "tests/differential/test_limit_conn.py",
    ),
    "modules/realip": ("tests/wire/test_udp_proxy_protocol.py",),
    "modules/ssl_preread": ("tests/unit/event/test_libcrypto.py",),
    "modules/proxy/tcp": ("tests/differential/test_proxying.py",),
    "modules/proxy/udp_rated": ("tests/wire/test_udp_rates.py",),
    "modules/proxy/udp_state": (
        "tests/unit/modules/proxy/test_udp_state.py",
        "tests/unit/stream/test_content.py",
        "tests/unit/process/test_adoption.py",
    ),
    "modules/proxy/udp_to_client": ("tests/unit/event/test_udp.py",),
    "modules/proxy/udp_to_server": ("tests/unit/event/test_udp.py",),
    "modules/ssl/handshake": ("tests/wire/test_tls_termination.py",),
    "modules/upstream/columns": (),
    "modules/upstream/peer_table": ("tests/unit/modules/upstream/test_zone.py",),
    "modules/upstream/zone": (),
    "process/channel": ("tests/unit/process/test_worker.py",),
    "process/children": ("tests/unit/process/test_reload.py", "tests/unit/process/test_master.py"),
    "process/generations": (),
    "process/adoption": ("tests/unit/process/test_arrival.py",),
    "process/arrival": ("tests/unit/process/test_adoption.py",),
    "process/departure": ("tests/unit/process/test_arrival.py",),
    "process/handover": (),
    "process/mailbox": ("tests/unit/process/test_arrival.py",),
    "process/master": ("tests/unit/process/test_reload.py", "tests/unit/process/test_master.py"),
    "process/orphan": ("tests/unit/process/test_rendezvous.py",),
    "process/pidfile": ("tests/unit/process/test_cli.py",),
    "process/reload": (),
    "process/rendezvous": (),
    "process/service": ("tests/unit/process/test_worker.py",),
    "process/siblings": ("tests/unit/process/test_arrival.py",),
    "process/takeover": ("tests/unit/process/test_upgrade.py",),
    "process/upgrade": (),
    "process/verdict": (),
    "process/worker": ("tests/unit/process/test_reload.py",),
}

# Changes that were looked at and make no difference that a test could see, each with the reason.
REVIEWED: Final = ROOT / "tests" / "mutation" / "equivalent.txt"


class Task(NamedTuple):
    """One mutant of one module. Attributes: module is a key of GUARDS, or alike."""

    module: str
    mutant: operators.Mutant

    @property
    def name(self) -> str:
        """One line that tells it from the others."""
        return f"{self.module}.py:{self.mutant.line} {self._text}"

    @property
    def change(self) -> str:
        """The same without the number of the line, which other changes move."""
        return f"{self.module}.py {self._text}"

    @property
    def _text(self) -> str:
        mutant = self.mutant
        return f"{mutant.place}: {mutant.before} -> {mutant.after}"


class Tree:
    """A copy of the project, in which one mutant at a time is tried."""

    def __init__(self, folder: Path) -> None:
        """Copy what the tests need."""
        self.folder = folder
        self._stamps = itertools.count(int(time.time()))
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, folder / name)

    def put(self, module: str, text: str) -> None:
        """Write a module; its compiled form is never mistaken for another text's."""
        path = self.folder / "ngxstream" / f"{module}.py"
        path.write_text(text)
        stamp = next(self._stamps)
        os.utime(path, (stamp, stamp))

    def run(self, tests: list[str], within_s: float) -> tuple[str, float]:
        """Run test files. Returns: KILLED, SURVIVED or LATE, and how long it took in seconds."""
        words = ["-x", "-q", "--no-header", "-p", "no:cacheprovider", "--no-summary"]
        words += ["-m", "not slow", *tests]
        begun = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *words],
            cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
            env=os.environ | {"CI": "true", "PYTHONPATH": str(self.folder)},
        )
        try:
            code = process.wait(within_s)
            result = SURVIVED if code == 0 else KILLED
        except subprocess.TimeoutExpired:
            result = LATE
        finally:
            try:  # what its tests have started is in its session, unless it is a daemon
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
        return result, time.monotonic() - begun


def tests_of(module: str, extra: tuple[str, ...]) -> list[str]:
    """Return the test files to ask: the module's own first, then its neighbours."""
    layer, _, name = module.rpartition("/")
    own = ROOT / "tests" / "unit" / layer / f"test_{name.rstrip('_')}.py"
    dotted = "ngxstream." + layer.replace("/", ".")
    imports = re.compile(
        rf"^from {re.escape(dotted)} import [^\n(]*\b{name}\b"
        rf"|^from {re.escape(dotted)} import \([^)]*\b{name}\b"
        rf"|^from {re.escape(dotted)}\.{name} import "
        rf"|^import {re.escape(dotted)}\.{name}\b",
        re.MULTILINE,
    )
    found = [own] if own.exists() else []
    for path in sorted((ROOT / "tests" / "unit").rglob("test_*.py")):
        heavy = str(path.relative_to(ROOT)) in HEAVY
        if path not in found and not heavy and imports.search(path.read_text()):
            found.append(path)
    names = [str(path.relative_to(ROOT)) for path in found]
    if len(names) > FEW:  # what everybody imports is tested by its own, and by those that are named
        names = names[:1]
    return names + [path for path in extra if path not in names and (ROOT / path).exists()]


def reviewed() -> dict[str, str]:
    """Return the changes that make no difference: by module and texts, with the reason.

    The file has pairs of lines: a change as it is printed, without the number of its line, and
    an indented reason. Lines that begin with # are comments.

    Raises: ValueError for a change without a reason, or a reason without a change.
    """
    found: dict[str, str] = {}
    change = ""
    for line in REVIEWED.read_text().splitlines():
        if line.startswith("    ") and (change or found):
            key = change or list(found)[-1]
            found[key] = f"{found.get(key, '')} {line.strip()}".strip()
            change = ""
        elif line and not line.startswith("#"):
            if change or line.startswith(" "):
                raise ValueError(f"{REVIEWED.name}: {change or line!r} has no reason or no change")
            change = line
    if change:
        raise ValueError(f"{REVIEWED.name}: {change!r} has no reason")
    return found


def chosen(module: str, count: int, seed: int) -> list[Task]:
    """Draw mutants of a module; all of them for a count of 0. Those of REVIEWED are left out."""
    text = (ROOT / "ngxstream" / f"{module}.py").read_text()
    found = operators.mutants(text)
    if count and len(found) > count:
        found = sorted(random.Random(f"{seed} {module}").sample(found, count))
    known = reviewed()
    return [task for task in (Task(module, mutant) for mutant in found) if task.change not in known]


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation")
    parser.add_argument("modules", nargs="*", help="as layer/name; those of GUARDS by default")
    parser.add_argument("-n", type=int, default=PER_MODULE, help="mutants of a module, 0 for all")
    parser.add_argument("-s", type=int, default=1, help="another number draws others")
    parser.add_argument("-j", type=int, default=os.cpu_count() or 1, help="at once")
    parser.add_argument("-o", help="file for the results")
    parser.add_argument("--only", help="file of results: try its survivors again")
    return parser.parse_args()


def main() -> int:
    """Run what was asked for. Returns: 0, or 1 when fewer than 90 % were killed."""
    words = arguments()
    modules = words.modules or [m for m in GUARDS if (ROOT / "ngxstream" / f"{m}.py").exists()]
    tests = {module: tests_of(module, GUARDS.get(module, ())) for module in modules}
    tasks = [task for module in modules for task in chosen(module, words.n, words.s)]
    if words.only:
        text = Path(words.only).read_text()
        found = re.findall(rf"^{SURVIVED}: (.*?\.py):\d+ (.*)$", text, re.MULTILINE)
        survivors = {f"{module} {change}" for module, change in found}
        every = (task for module in modules for task in chosen(module, 0, words.s))
        tasks = [task for task in every if task.change in survivors]
    results: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="ngxstream-mutants-") as folder:
        os.chmod(folder, 0o755)  # tests become other users, who import from here
        trees: queue.Queue[Tree] = queue.Queue()
        for n in range(words.j):
            trees.put(Tree(Path(folder) / str(n)))
        limits: dict[str, float] = {}
        locks = {module: threading.Lock() for module in modules}

        def limit(module: str, tree: Tree) -> float:
            with locks[module]:
                if module not in limits:
                    result, seconds = tree.run(tests[module], 900)
                    limits[module] = max(20.0, 4 * seconds) if result == SURVIVED else 0
                    if result != SURVIVED:
                        names = " ".join(tests[module])
                        print(f"{module}: its tests fail without any change: {names}", flush=True)
                return limits[module]

        def attempt(task: Task) -> tuple[Task, str]:
            tree = trees.get()
            path = tree.folder / "ngxstream" / f"{task.module}.py"
            whole = path.read_text()
            try:
                within_s = limit(task.module, tree)
                if not within_s:
                    return task, "not tried"
                tree.put(task.module, task.mutant.source)
                result, _ = tree.run(tests[task.module], within_s)
            finally:
                tree.put(task.module, whole)
                trees.put(tree)
            return task, result

        with concurrent.futures.ThreadPoolExecutor(words.j) as pool:
            for task, result in pool.map(attempt, tasks):
                results[result] += 1
                line = f"{result}: {task.name}"
                if words.o:
                    with open(words.o, "a") as file:
                        file.write(line + "\n")
                if result == SURVIVED:
                    print(line, flush=True)
    killed = results[KILLED] + results[LATE]
    total = killed + results[SURVIVED]
    print(f"{killed} of {total} mutants killed, {results[SURVIVED]} survived")
    return int(not total or killed < 0.9 * total)


if __name__ == "__main__":
    sys.exit(main())
