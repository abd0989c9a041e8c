"""py_log: a function that hears how each session has ended, in the log phase.

It is called once for a session, behind access_log, with the final status, counts and reason in its
Session. Nothing can be sent any more, and nothing it does or raises changes the session's end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ngxstream.conf import directive as d
from ngxstream.core import codes
from ngxstream.modules.py import conf, faults
from ngxstream.scripting import running
from ngxstream.stream import phases
from ngxstream.stream.module import PhaseHandler

if TYPE_CHECKING:
    from ngxstream.modules.py.conf import PyConf
    from ngxstream.stream.core import ServerConf
    from ngxstream.stream.session import Session


def handle(s: Session) -> int:
    """Call the function."""
    settings: PyConf = s.server.py
    hook = settings.log
    if hook is None:  # another server of the address has one
        return codes.OK
    s.action = "running py_log"
    its = running.of(s, settings)
    its.channel = running.CLOSED
    try:
        its.ask(hook.call, its.session)
    except BaseException as error:  # noqa: BLE001 - told; the session has ended already
        faults.tell(s, hook, error)
    return codes.OK


def _is_wanted(server: ServerConf) -> bool:
    return server.py.log is not None


DIRECTIVES: Final = (
    d.Directive("py_log", conf.BOTH, d.TAKE1, conf.hook_setter("log", is_plain=True),
                "A function that is told how each session has ended.", extension=True),
)
HANDLERS: Final = (PhaseHandler(phases.LOG, handle, _is_wanted),)
