"""What testing a plain configuration reads: the modules it needs, and none of the heavy ones."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Of the standard library: what other modules of ours import, but no plain configuration needs.
HEAVY = {
    *("argparse", "asyncio", "calendar", "datetime", "email", "glob", "http", "ipaddress"),
    *("json", "logging", "multiprocessing", "pathlib", "pickle", "shutil", "socketserver"),
    *("ctypes", "hashlib", "random", "ssl", "subprocess", "tempfile", "threading", "traceback"),
    *("tomllib", "unittest", "urllib"),
}
# Of ours: what serves, and what only some configurations need.
SERVING = {
    *("conf.hints", "conf.manual", "conf.other_modules", "process.findings"),
    *("core.regex", "core.regex_groups", "core.regex_machine", "core.regex_program"),
    *("core.regex_risk", "core.regex_scan"),
    *("core.regex_syntax", "core.regex_tree", "core.syslog", "event.accept", "event.dns_query"),
    *("event.libssl", "event.libssl_context", "event.libssl_facts", "event.libssl_sessions"),
    *("event.loop", "event.netlink", "event.pump", "event.resolver", "event.splice"),
    *("event.timers", "event.tls", "event.udp", "modules.proxy.tls", "process.handover"),
    *("process.adoption", "process.arrival", "process.departure"),
    *("process.mailbox", "process.master", "process.orphan", "process.rendezvous"),
    *("process.children", "process.service", "process.takeover", "process.upgrade"),
    *("process.verdict", "process.worker", "stream.travel", "wire.client_hello", "wire.dns"),
    "wire.proxy_protocol",
}
# What an interpreter has loaded before the program begins is not the program's doing.
CODE = """
import sys
before = set(sys.modules)
from ngxstream.process import cli
code = cli.main(sys.argv[1:])
assert code == 0, code
for name in sorted(set(sys.modules) - before):
    if type(sys.modules[name]).__name__ != "_Waiting":
        print(name)
"""


def test_a_test_of_a_plain_configuration_reads_no_heavy_module(tmp_path: Path) -> None:
    """-t of conf/quickstart.conf executes neither what serves nor what it does not mention."""
    (tmp_path / "logs").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", CODE, "ngxstream", "-q", "-t", "-p", str(tmp_path), "-e", "e.log",
         "-c", str(ROOT / "conf" / "quickstart.conf")],
        capture_output=True, text=True, check=False, cwd=ROOT, timeout=60,
    )
    assert (0, "") == (done.returncode, done.stderr)
    executed = set(done.stdout.split())
    assert "ngxstream.stream.core" in executed
    assert set() == executed & {*HEAVY, *(f"ngxstream.{name}" for name in SERVING)}


def test_the_lists_name_modules_that_there_are() -> None:
    """A module that was renamed would be missed in silence."""
    assert set() == HEAVY - sys.stdlib_module_names
    files = {str(path.relative_to(ROOT)) for path in ROOT.glob("ngxstream/**/*.py")}
    assert set() == {f"ngxstream/{name.replace('.', '/')}.py" for name in SERVING} - files
