"""What is behind a Session: tasks that end with it, a bound on them, calls that are charged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ngxstream.event import tasks
from ngxstream.event.turn_budget import TurnBudget
from ngxstream.scripting import running
from ngxstream.scripting import tasks as waits
from ngxstream.scripting.errors import ScriptError, SessionEndedError
from ngxstream.scripting.running import MOST_TASKS, Running
from tests.support.in_process import InProcess, build

Served = tuple[InProcess, Running]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """Give a server, and what is behind a session that waits at it."""
    (tmp_path / "m.py").write_text(
        "from ngxstream.scripting import sleep\nasync def waits(s): await sleep(3600)\n"
    )
    text = (f"stream {{ py_path {tmp_path}; py_import m; server {{ listen 127.0.0.1:@a@; "
            "py_access m.waits; return x; } }")
    with InProcess(text) as made:
        made.connect()
        made.turn_until(lambda: made.sessions)
        s = made.sessions[0]
        yield made, running.of(s, s.server.py)
        running.limit_of(made.loop).close()


def test_the_end_of_a_session_cancels_its_tasks(served: Served) -> None:
    """Their `finally` blocks find it; after that it is gone."""
    made, its = served
    seen: list[Any] = []

    async def work() -> None:
        try:
            await waits.sleep(3600)
        finally:
            seen.append((its.session.is_ended, its.session.protocol))

    task = its.start(work(), lambda task: seen.append(type(task.error)))
    made.sessions[0].finalize(200)
    assert [(True, "TCP"), tasks.CancelledError] == seen
    assert (True, True, None) == (task.is_over, its.is_over, its.tasks)
    with pytest.raises(SessionEndedError):
        its.check()
    with pytest.raises(SessionEndedError):
        its.channel.to_client(b"late")
    with pytest.raises(SessionEndedError):
        its.session.allow()
    with pytest.raises(SessionEndedError):
        its.start(waits.sleep(0), lambda task: None)
    assert 0 == made.loop.live


def test_what_is_sent_behind_the_end_goes_nowhere(served: Served) -> None:
    """Not to the client either, whose connection is not closed yet."""
    made, its = served
    seen: list[str] = []

    async def work() -> None:
        try:
            await waits.sleep(3600)
        finally:
            its.session.send_to_client(b"late")
            its.session.send_to_upstream(b"late")
            seen.append("sent")

    its.start(work(), lambda task: None)
    made.sessions[0].finalize(200)
    assert (["sent"], b"") == (seen, made.read(made.clients[0]))


def test_a_session_whose_server_is_selected_by_name_has_the_settings_of_that(
    served: Served, tmp_path: Path
) -> None:
    """For calls, what is sent, and tasks, from then on."""
    made, its = served
    s = made.sessions[0]
    (tmp_path / "n.py").write_text("def f(s): pass\n")
    other = build(
        f"stream {{ py_path {tmp_path}; py_import n; server {{ listen 127.0.0.1:1; py_access n.f; "
        "py_time_limit 7ms; py_buffer_size 3k; return x; } }"
    ).conf
    assert other is not None
    settings = other.servers[0].py
    assert settings is not its.settings
    assert its is running.of(s, settings)
    assert (settings, 7, 3072) == (its.settings, its.settings.time_limit, its.channel.most)  # type: ignore[attr-defined]


def test_a_session_has_a_bounded_number_of_tasks(served: Served) -> None:
    """One more is an error, and its coroutine never runs."""
    _, its = served
    assert its.tasks is not None
    while len(its.tasks) < MOST_TASKS:
        its.start(waits.sleep(3600), lambda task: None)
    with pytest.raises(ScriptError, match="64 tasks"):
        its.start(waits.sleep(3600), lambda task: None)


def test_what_a_phase_asks_is_charged_to_the_turn(served: Served) -> None:
    """Who begins behind an expensive function may have to wait; a cheap one costs nothing."""
    made, its = served
    names: dict[str, Any] = {"__name__": "users"}
    exec("def burns():\n import time\n end = time.monotonic() + 0.02\n"
         " while time.monotonic() < end: pass", names)
    budget = made.loop.get(TurnBudget)
    its.ask(int)
    assert not budget.is_busy
    its.ask(names["burns"])
    assert budget.is_busy
    made.loop.turn(0)
    assert not budget.is_busy


def test_what_a_coroutine_takes_is_charged_to_the_turn(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its first step, and in each that follows; a call within a call is part of it."""
    made, its = served
    charged: list[int] = []
    monkeypatch.setattr(TurnBudget, "charge", lambda _, spent: charged.append(spent))
    monkeypatch.setattr(running, "CHEAP_NS", -1)

    async def works() -> None:
        assert 7 == its.ask(int, "7")
        await waits.sleep(0.001)
        its.ask(int)

    task = its.start(works(), lambda task: None)
    assert 1 == len(charged)
    made.turn_until(lambda: task.is_over)
    assert 2 == len(charged)


def test_a_verdict_is_taken_once(served: Served) -> None:
    """The last one counts."""
    _, its = served
    its.session.deny()
    its.session.allow()
    assert [0, None] == [its.take_verdict(), its.take_verdict()]
