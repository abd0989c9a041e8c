"""set: give a variable a value at the start of each session (ngx_stream_set_module.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ngxstream.conf import directive as d
from ngxstream.conf.directive import SERVER, TAKE2, Directive
from ngxstream.core.codes import DECLINED
from ngxstream.stream import phases, values, variables
from ngxstream.stream.explaining import Answer
from ngxstream.stream.module import PhaseHandler, StreamModule

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope
    from ngxstream.conf.module import Given, Module
    from ngxstream.conf.reader import Statement
    from ngxstream.stream.core import ServerConf
    from ngxstream.stream.explaining import Explanation
    from ngxstream.stream.session import Session
    from ngxstream.stream.values import ComplexValue
    from ngxstream.stream.variables import VariableRef, VariableTable


@dataclass(frozen=True, slots=True)
class SetConf:
    """What a server assigns, in the order of the file."""

    commands: tuple[tuple[VariableRef, ComplexValue], ...] = ()


def handle(s: Session) -> int:
    """Assign. Source: ngx_stream_set_handler"""
    for ref, value in s.server.set.commands:
        ref.assign(s, value.get(s))
    return DECLINED


def _explain(s: Session, explanation: Explanation) -> Answer:
    """Assign: the session is all that has these values."""
    names = ", ".join(f"${ref.name}" for ref, _ in s.server.set.commands)
    return Answer(handle(s), f"sets {names}" if names else "sets nothing")


def _is_wanted(server: ServerConf) -> bool:
    return bool(server.set.commands)


def _set(scope: Scope, module: Module, st: Statement) -> None:
    name, text = st.args
    table: VariableTable = scope.builder.data["stream"].variables
    ref = table.assignable(variables.name_in(name))
    value = values.compile_value(text, table)
    scope.given_of(module).setdefault("commands", []).append((ref, value))
    d.note(scope, module, st)


def _merge(outer: Given, inner: Given) -> SetConf:
    return SetConf(tuple(inner.get("commands", ())))


MODULE = StreamModule(
    name="set",
    directives=(
        Directive("set", SERVER, TAKE2, _set, "A variable and the value it gets in each session."),
    ),
    conf=SetConf,
    merge=_merge,
    handlers=(PhaseHandler(phases.PREACCESS, handle, _is_wanted),),
    explains=((handle, _explain),),
)
