"""The settings of py_*: what servers inherit, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.in_process import InProcess, build

ENDS = "return x; }"


def conf_of(text: str, number: int = 0) -> Any:
    """Return the settings of a server."""
    built = build(f"stream {{ {text} }}")
    assert built.conf is not None, built.error
    return built.conf.servers[number].py


@pytest.mark.effect("py_buffer_size")
def test_a_server_has_the_limits_of_the_block_or_its_own(tmp_path: Path) -> None:
    """Times in ms, sizes in bytes."""
    text = ("py_time_limit 7ms; py_timeout 2s; py_buffer_size 1k; "
            f"server {{ listen 127.0.0.1:1; {ENDS} "
            "server { listen 127.0.0.1:2; py_time_limit 1s; py_timeout 1ms; py_buffer_size 9; "
            f"{ENDS}")
    first, second = (conf_of(text, number) for number in range(2))
    assert (7, 2000, 1024) == (first.time_limit, first.timeout, first.buffer_size)
    assert (1000, 1, 9) == (second.time_limit, second.timeout, second.buffer_size)


def test_there_always_are_limits() -> None:
    """The defaults of a server that says nothing."""
    made = conf_of(f"server {{ listen 127.0.0.1:1; {ENDS}")
    assert (100, 60_000, 65_536) == (made.time_limit, made.timeout, made.buffer_size)
    assert (None, None) == (made.access, made.scripts)


@pytest.mark.parametrize(
    "text",
    ["py_time_limit 0", "py_time_limit 61s", "py_time_limit x", "py_timeout x", "py_timeout 0",
     "py_buffer_size x", "py_buffer_size 0"],
)
@pytest.mark.refusal("py_buffer_size", "py_time_limit", "py_timeout")
def test_a_value_that_is_none_is_refused(text: str) -> None:
    """There is no call without a limit."""
    assert '"py_' in (error := build(f"stream {{ {text}; }}").error) or "invalid value" in error


def test_a_periodic_function_has_the_limit_of_its_block(tmp_path: Path) -> None:
    """That of its server, of the stream block, or the default."""
    (tmp_path / "m.py").write_text("def f(): pass")
    head = f"py_path {tmp_path}; py_import m; "
    for text, expected in (
        (f"py_periodic m.f; server {{ listen 127.0.0.1:1; {ENDS}", 100),
        (f"py_time_limit 7ms; server {{ listen 127.0.0.1:1; py_periodic m.f; {ENDS}", 7),
        (f"server {{ listen 127.0.0.1:1; py_periodic m.f; py_time_limit 8ms; {ENDS}", 8),
    ):
        built = build(f"stream {{ {head}{text} }}")
        assert built.conf is not None, built.error
        assert [expected] == [one.time_limit for one in built.conf.data["py"].periodics]


@pytest.mark.effect("py_import")
def test_a_server_may_import_a_module_of_its_own_under_a_name(tmp_path: Path) -> None:
    """Its own import hides that of the block around it; both are there."""
    for name, verdict in (("one", "allow"), ("two", "deny")):
        (tmp_path / f"{name}.py").write_text(f"def f(s): s.{verdict}()")
    text = (f"stream {{ py_import m from {tmp_path}/one.py; "
            f"server {{ listen 127.0.0.1:@a@; py_access m.f; {ENDS} "
            f"server {{ listen 127.0.0.1:@b@; py_import m from {tmp_path}/two.py; "
            f"py_access m.f; {ENDS} }}")
    with InProcess(text) as served:
        assert [b"x", b""] == [served.read(served.connect(number)) for number in range(2)]
        limit = [one for one in served.loop._services.values() if hasattr(one, "exceeded")]
        limit[0].close()
