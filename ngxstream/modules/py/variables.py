"""py_set and py_var: variables that a function evaluates, and such that functions may write.

1. The function of a py_set is called where the value is needed, within the time limit of the
   session's server, and its value kept for the session; with `nocache` it is called each time.
2. What it raises, or returns besides text, bytes, an integer and None, is one line of the error log
   and leaves the variable without a value. So does one that asks for its own variable.
3. A name has one function: another one is refused, as are two values of a py_var. What a py_var
   is given stays with the session, also in another process.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ngxstream.conf import directive as d
from ngxstream.core import errors, log
from ngxstream.event import time_limit
from ngxstream.modules.py import conf, faults
from ngxstream.scripting import running
from ngxstream.stream import values, variables
from ngxstream.stream.explaining import Imagined
from ngxstream.stream.variables import CHANGEABLE, NOCACHEABLE, VariableTable

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope
    from ngxstream.conf.module import Module
    from ngxstream.conf.reader import Statement
    from ngxstream.modules.py.loading import Hook
    from ngxstream.stream.core import StreamDraft
    from ngxstream.stream.session import Session
    from ngxstream.stream.values import ComplexValue
    from ngxstream.stream.variables import Getter

KEY: Final = "py_set"  # in the data of a stream block: dict of name -> Defined
MOST: Final = 65_536  # bytes of a value: sessions keep it, and each log line that names it has it


class Defined(NamedTuple):
    """What a variable was defined by. Args: word: function or value, as written"""

    directive: str
    word: str | None
    hook: Hook | None


def _py_set(scope: Scope, module: Module, st: Statement) -> None:
    """Read `py_set $var module.function [nocache]`."""
    name = _name_in(st.args[0])
    flags = CHANGEABLE
    if len(st.args) == 3:
        if st.args[2] != "nocache":
            raise errors.ConfError(f'unrecognized flag "{st.args[2]}"')
        flags |= NOCACHEABLE
    hook = conf.hook(scope, st, st.args[1], 1, is_plain=True)
    _define(scope, name, Defined(st.directive, st.args[1], hook))
    table: VariableTable = scope.builder.data["stream"].variables
    table.add(name, _getter(name, hook), flags)
    d.note(scope, module, st)


def _py_var(scope: Scope, module: Module, st: Statement) -> None:
    """Read `py_var $var [value]`."""
    name = _name_in(st.args[0])
    text = st.args[1] if len(st.args) == 2 else None
    table: VariableTable = scope.builder.data["stream"].variables
    value = None if text is None else values.compile_value(text, table)
    _define(scope, name, Defined(st.directive, text, None))
    table.add(name, _initial(value), CHANGEABLE)
    table.assignable(name)
    conf.scripts_of(scope)
    d.note(scope, module, st)


def _name_in(word: str) -> str:
    """Return the name of `$name`. Raises: ConfError"""
    name = variables.name_in(word)
    if not name:
        raise errors.ConfError(f'invalid variable name "{word}"')
    return name


def _define(scope: Scope, name: str, defined: Defined) -> None:
    """Note what a variable is defined by. Raises: ConfError where it is something else already"""
    known: dict[str, list[Defined]] = scope.builder.data["stream"].data.setdefault(KEY, {})
    former = known.setdefault(name.lower(), [])
    if former and former[0][:2] != defined[:2]:
        what = "function name" if defined.hook is not None else "value"
        raise errors.ConfError(f'variable "${name}" is redeclared with different {what}')
    former.append(defined)


def init(draft: StreamDraft) -> None:
    """See that a name that stands for a function twice is the same one. Raises: ConfError"""
    known: dict[str, list[Defined]] = draft.data.get(KEY, {})
    for name, all_defined in known.items():
        hooks = [one.hook for one in all_defined if one.hook is not None]
        for hook in hooks[1:]:
            if hook.call is not hooks[0].call:
                raise errors.ConfError(
                    f'variable "${name}" is redeclared with different function name'
                ).at(hook.file, hook.line)


def _initial(value: ComplexValue | None) -> Getter:
    """Make the getter of a py_var that nobody has written."""

    def get(s: Session) -> bytes | None:
        return b"" if value is None else value.get(s)

    return get


def _getter(name: str, hook: Hook) -> Getter:
    """Make the getter of a py_set."""

    def get(s: Session) -> bytes | None:
        if isinstance(s, Imagined):
            return None  # nobody can foresee it
        its = running.of(s, s.server.py)
        evaluating = its.evaluating
        if evaluating is None:
            evaluating = its.evaluating = set()
        if name in evaluating:
            s.log_error(log.ERR, f'cycle while evaluating variable "{name}"')
            return None
        is_nested = its.limit.limit_ms != 0
        evaluating.add(name)
        try:
            return _value_of(its.ask(hook.call, its.session))
        except BaseException as error:  # told; there is no value
            if is_nested and isinstance(error, time_limit.TimeLimitError):
                raise  # it is the limit of the function that asks
            faults.tell(s, hook, error)
            return None
        finally:
            evaluating.discard(name)

    return get


def _value_of(result: Any) -> bytes | None:
    """Return what a function returned as a value. Raises: TypeError, ValueError"""
    if result is None:
        return None
    if isinstance(result, str):
        value = result.encode("utf-8", "surrogateescape")
    elif isinstance(result, int):
        value = b"%d" % result
    elif isinstance(result, (bytes, bytearray)):
        value = bytes(result)
    else:
        if inspect.iscoroutine(result):
            result.close()
        raise TypeError(f"a variable is str, bytes, int or None, not {type(result).__name__}")
    if len(value) > MOST:
        raise ValueError(f"a variable has {MOST} bytes at most, not {len(value)}")
    return value


DIRECTIVES: Final = (
    d.Directive("py_set", conf.BOTH, d.TAKE23, _py_set, "A variable that a function evaluates.",
                extension=True),
    d.Directive("py_var", conf.BOTH, d.TAKE12, _py_var,
                "A variable that functions may write, and the value it has before.",
                extension=True),
)
