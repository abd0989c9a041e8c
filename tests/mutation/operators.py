"""Mutants of a source text: the same text but for one change of one expression or statement.

A mutant is what a slip of the hand would leave: a comparison that is off by one, a condition that
is dropped or turned round, a call or an assignment that is missing, a bound that does not bind.
Text that no test can be asked about is left alone: docstrings, annotations, assertions, log
lines, `__repr__`, what is imported for type checkers.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final, NamedTuple

_COMPARISONS: Final[dict[type[ast.cmpop], type[ast.cmpop]]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_ARITHMETIC: Final[dict[type[ast.operator], type[ast.operator]]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
_SAID: Final = frozenset(
    ("write", "log_error", "error", "complain", "debug", "info", "warning", "notice")
)
_SKIPPED_FUNCTIONS: Final = frozenset(("__repr__", "__str__"))
_BOUND: Final = 16  # smaller numbers of a module are codes or bits, not bounds
_LOOSER: Final = 1000  # a bound so many times as wide binds nothing that a test does


class Mutant(NamedTuple):
    """One change.

    Attributes: line is counted from 1; place is the function or class that it is in; source is the
    whole text; before and after are the changed line's own texts.
    """

    line: int
    place: str
    before: str
    after: str
    source: str


class _Change(NamedTuple):
    """A piece of text to put in another's place. Offsets are of bytes, as ast counts them."""

    node: ast.expr | ast.stmt
    text: str


def mutants(source: str) -> list[Mutant]:
    """Return all mutants of a source text, in the order of their lines.

    Raises: SyntaxError for a text that is no Python.
    """
    tree = ast.parse(source)
    lines = source.encode().splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    raw = source.encode()
    found = []
    seen = set()
    for change in _changes(tree):
        node = change.node
        assert node.end_lineno is not None and node.end_col_offset is not None
        first = starts[node.lineno - 1] + node.col_offset
        last = starts[node.end_lineno - 1] + node.end_col_offset
        mutated = (raw[:first] + change.text.encode() + raw[last:]).decode()
        if mutated == source or mutated in seen:
            continue
        seen.add(mutated)
        before = lines[node.lineno - 1].decode().strip()
        after = mutated.splitlines()[node.lineno - 1].strip()
        found.append(Mutant(node.lineno, _place(tree, node.lineno), before, after, mutated))
    found.sort(key=lambda mutant: mutant.line)
    return found


def _place(tree: ast.Module, line: int) -> str:
    """Return the names of the classes and functions around a line, such as Timers.add."""
    names = []
    node: ast.AST | None = tree
    while node is not None:
        inner = (
            child
            for child in ast.walk(node)
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and child is not node
            and child.lineno <= line <= (child.end_lineno or 0)
        )
        node = next(inner, None)
        if node is not None:
            names.append(node.name)
    return ".".join(names) or "-"


def _changes(tree: ast.Module) -> Iterator[_Change]:
    """Find every place to change."""
    for statement in tree.body:
        yield from _of_module(statement)


def _of_module(statement: ast.stmt) -> Iterator[_Change]:
    """Find the places in a statement of a module or class body."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
        if statement.name not in _SKIPPED_FUNCTIONS:
            for inner in statement.body:
                yield from _of_function(inner, in_init=statement.name == "__init__")
    elif isinstance(statement, ast.ClassDef):
        for inner in statement.body:
            yield from _of_module(inner)
    elif isinstance(statement, ast.AnnAssign | ast.Assign):
        value = statement.value
        number = _folded(value)
        if value is not None and number is not None and number >= _BOUND:
            yield _Change(value, f"({ast.unparse(value)}) * {_LOOSER}")


def _folded(node: ast.expr | None) -> int | None:
    """Return the value of a whole number that may be written as an operation, such as 64 << 20."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.BinOp):
        left, right = _folded(node.left), _folded(node.right)
        if left is not None and right is not None and isinstance(node.op, ast.LShift | ast.Mult):
            return left << right if isinstance(node.op, ast.LShift) else left * right
    return None


def _of_function(statement: ast.stmt, *, in_init: bool) -> Iterator[_Change]:
    """Find the places in a statement of a function's body."""
    if isinstance(statement, ast.Assert) or _is_said(statement):
        return
    yield from _of_statement(statement, in_init=in_init)
    for name, value in ast.iter_fields(statement):
        if name in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        for child in value if isinstance(value, list) else (value,):
            if isinstance(child, ast.stmt):
                yield from _of_function(child, in_init=in_init)
            elif isinstance(child, ast.ExceptHandler | ast.match_case):
                for inner in child.body:
                    yield from _of_function(inner, in_init=in_init)
            elif isinstance(child, ast.withitem):
                yield from _of_expression(child.context_expr)
            elif isinstance(child, ast.expr):
                yield from _of_expression(child)


def _is_said(statement: ast.stmt) -> bool:
    """Tell whether a statement only writes to a log."""
    call = statement.value if isinstance(statement, ast.Expr) else None
    return (
        isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr in _SAID
    )


def _of_statement(statement: ast.stmt, *, in_init: bool) -> Iterator[_Change]:
    """Find what can be done to the statement as a whole."""
    match statement:
        case ast.Expr(value=ast.Call()) | ast.Raise() | ast.Delete():
            yield _Change(statement, "pass")
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]) if not in_init:
            yield _Change(statement, "pass")
        case ast.AugAssign(op=op) if type(op) in _ARITHMETIC:
            other = ast.AugAssign(statement.target, _ARITHMETIC[type(op)](), statement.value)
            yield _Change(statement, ast.unparse(other))
        case ast.Continue() | ast.Break() | ast.Return(value=None):
            yield _Change(statement, "pass")
        case ast.Return(value=ast.Constant(value=bool() as value)):
            yield _Change(statement, f"return {not value}")
        case ast.If(test=test) | ast.While(test=test):
            yield _Change(test, f"not ({ast.unparse(test)})")
        case _:
            pass


def _of_expression(top: ast.expr) -> Iterator[_Change]:
    """Find the places in an expression."""
    for node in ast.walk(top):
        match node:
            case ast.Compare(ops=[op]) if type(op) in _COMPARISONS:
                other = ast.Compare(node.left, [_COMPARISONS[type(op)]()], node.comparators)
                yield _Change(node, f"({ast.unparse(other)})")
            case ast.BoolOp(op=op, values=values):
                for n in range(len(values)):
                    left = [value for at, value in enumerate(values) if at != n]
                    rest = left[0] if len(left) == 1 else ast.BoolOp(op, left)
                    yield _Change(node, f"({ast.unparse(rest)})")
            case ast.UnaryOp(op=ast.Not()):
                yield _Change(node, f"({ast.unparse(node.operand)})")
            case ast.BinOp(op=op) if type(op) in _ARITHMETIC and not _is_text(node):
                changed = ast.BinOp(node.left, _ARITHMETIC[type(op)](), node.right)
                yield _Change(node, f"({ast.unparse(changed)})")
            case ast.Call(func=ast.Name(id="min" | "max" as name)):
                yield _Change(node.func, "max" if name == "min" else "min")
            case ast.Constant(value=int() as value) if type(value) is int and value > 0:
                yield _Change(node, str(value + 1))
            case _:
                pass


def _is_text(node: ast.BinOp) -> bool:
    """Tell whether one side is a literal string or bytes: such a sum is no arithmetic."""
    return any(
        isinstance(side, ast.JoinedStr)
        or (isinstance(side, ast.Constant) and isinstance(side.value, str | bytes))
        for side in (node.left, node.right)
    )
