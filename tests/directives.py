"""Which tests hold which directive: read from the marks the tests bear, for a page of docs/.

A test of what a directive does bears ``@pytest.mark.effect("name", …)``, a test of what it refuses
``@pytest.mark.refusal("name", …)``; the cases of tests/support/refusals.py count as such. A name
that means two things is told apart by its block: ``upstream/server``. The marks are read from the
source: nothing is run or imported for it.
"""

import ast
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ngxstream.modules.py import refused
from tests.support import refusals

ROOT: Final = Path(__file__).resolve().parents[1]
TABLE: Final = ROOT / "tests" / "structure" / "nginx_directives.tsv"
KINDS: Final = ("effect", "refusal")
REFUSAL_TEST: Final = "tests/differential/test_refusals.py::test_a_bad_use_is_refused"

# A name of its own for each meaning of a name.
BY_BLOCK: Final = {
    "server": ("server", "upstream/server"),
    "resolver": ("resolver", "upstream/resolver"),
    "resolver_timeout": ("resolver_timeout", "upstream/resolver_timeout"),
}

# Directives of ours, which nginx does not know.
OURS: Final = (
    "api", "api_user_file", "proxy_protocol_datagrams", "keyval", "keyval_zone", "state",
    "status_zone", "health_check", "health_check_timeout", "match", "proxy_session_drop",
    "limit_sess", "limit_sess_zone", "limit_sess_log_level", "limit_sess_dry_run",
    "limit_datagram", "limit_datagram_zone", "limit_datagram_log_level", "limit_datagram_dry_run",
    "limit_bandwidth", "limit_bandwidth_zone", "limit_bandwidth_log_level",
    "limit_bandwidth_dry_run", "proxy_connect", "proxy_quic", "proxy_session_lifetime",
    "proxy_udp_amplification", "proxy_udp_any_port",
    "py_access", "py_balancer", "py_buffer_size", "py_content", "py_filter", "py_import", "py_log",
    "py_path", "py_periodic", "py_preread", "py_set", "py_shared_dict_zone", "py_time_limit",
    "py_timeout", "py_var", *refused.REASONS,
)

_TUNING: Final = "accepted: hashes need no tuning here"
_OCSP: Final = "only `off` is served; see docs/divergences.md"
_RESPONDER: Final = "accepted: responders are not asked; see docs/divergences.md"
# Directives that cannot have an effect here, with the reason.
WITHOUT_EFFECT: Final = {
    "accept_mutex": "accepted: of the workers that wait for a client only one is woken anyway",
    "debug_points": "accepted: there is no debugger to stop for",
    "lock_file": "accepted: locks need no file here",
    "map_hash_bucket_size": _TUNING,
    "map_hash_max_size": _TUNING,
    "pcre_jit": "accepted: there is no PCRE",
    "proxy_buffer_size": "accepted: one buffer serves all sessions, and no datagram is cut",
    "server_names_hash_bucket_size": _TUNING,
    "server_names_hash_max_size": _TUNING,
    "ssl_certificate_compression": "only `off` is served; see docs/divergences.md",
    "ssl_ech_file": "refused by name",
    "ssl_engine": "refused by name",
    "ssl_object_cache_inheritable": "accepted: certificates are read anew on a reload",
    "ssl_ocsp": _OCSP,
    "ssl_ocsp_cache": _OCSP,
    "ssl_ocsp_responder": _OCSP,
    "ssl_stapling_responder": _RESPONDER,
    "ssl_stapling_verify": _RESPONDER,
    "thread_pool": "accepted: there are no threads",
    "timer_resolution": "accepted: the clock is read once a turn of the loop anyway",
    "variables_hash_bucket_size": _TUNING,
    "variables_hash_max_size": _TUNING,
    **dict.fromkeys(refused.REASONS, "refused by name"),
    "worker_aio_requests": "accepted: no file is read asynchronously",
}

Book = dict[str, dict[str, list[str]]]  # directive -> kind -> tests as path::function


def names() -> list[str]:
    """Return the directives of nginx that must have tests, each meaning by itself."""
    with open(TABLE, encoding="utf-8") as table:
        known = [row["directive"] for row in csv.DictReader(table, delimiter="\t")]
    known += OURS
    return sorted(meaning for name in known for meaning in BY_BLOCK.get(name, (name,)))


def marked(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (kind, directive, path::function) for each mark in a file of tests."""
    tree = ast.parse(path.read_text())
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef):
            continue
        test = f"{path.relative_to(ROOT)}::{node.name}"
        for decorator in node.decorator_list:
            for call in ast.walk(decorator):
                if not isinstance(call, ast.Call):
                    continue
                kind = ast.unparse(call.func).removeprefix("pytest.mark.")
                if kind in KINDS:
                    yield from ((kind, ast.literal_eval(name), test) for name in call.args)


def book() -> Book:
    """Return the tests of every directive."""
    found: Book = {name: {kind: [] for kind in KINDS} for name in names()}
    for name in refusals.REFUSALS:
        found[name]["refusal"].append(REFUSAL_TEST)
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for kind, name, test in marked(path):
            if test not in found[name][kind]:
                found[name][kind].append(test)
    return found


def _bad_uses(name: str) -> list[str]:
    """Return what is refused of a directive by the first two cases, with the words."""
    shown = []
    for case in refusals.REFUSALS.get(name, [])[:2]:
        text = case.text if len(case.text) < 80 else f"{case.text[:40]}…"
        shown.append(f"`{text}` {case.words}".replace("|", "\\|"))
    return shown


def _cell(tests: list[str], reason: str, before: list[str] | None = None) -> str:
    links = list(before or ())
    for test in tests:
        path, _, function = test.partition("::")
        if test == REFUSAL_TEST:
            continue  # its cases are shown
        links.append(f"[{function.removeprefix('test_').replace('_', ' ')}](../{path})")
    return "<br>".join(links) or reason


def page() -> str:
    """Return docs/tests-of-directives.md."""
    lines = [
        "# Tests of directives",
        "",
        "Printed from the marks in tests/ (`make docs`); do not edit. A bad use and its words are",
        "a case of [test_refusals.py](../tests/differential/test_refusals.py), which compares them",
        "with nginx's wherever the nginx at hand knows the directive.",
        "",
        "| directive | what it does | what it refuses |",
        "|---|---|---|",
    ]
    for name, kinds in book().items():
        effect = _cell(kinds["effect"], f"— {WITHOUT_EFFECT.get(name, '')}")
        lines.append(f"| `{name}` | {effect} | {_cell(kinds['refusal'], '—', _bad_uses(name))} |")
    return "\n".join(lines) + "\n"
