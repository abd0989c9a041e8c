"""What every module keeps of a session moves to another process, or its declaration says why not.

The lists are read from the source: who adds a key of ctx, a class of contents or a slot of one
without saying how it moves is told here. test_travel.py does the same for a session's own slots.
"""

import ast
import functools
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ngxstream
from ngxstream.modules import (
    ALL,
    limit_bandwidth,
    limit_conn,
    limit_datagram,
    limit_sess,
    realip,
    ssl_preread,
)
from ngxstream.modules.proxy import quic_conf
from ngxstream.modules.proxy.udp_state import NEVER_GRO
from ngxstream.modules.py import filters_udp
from ngxstream.stream import content, core_facts, session
from ngxstream.stream.content import Content
from ngxstream.stream.module import StreamModule
from ngxstream.wire import client_hello
from tests.support import moving
from tests.support.moving import World, world

__all__ = ["world"]

MODULES = [one for one in ALL if isinstance(one, StreamModule)]
KEEPS = {kept.key: kept for module in MODULES for kept in module.keeps}
KINDS = {kind.name: kind for module in MODULES for kind in module.contents}

# one value that is not what a new session has, for all that moves
KEPT: dict[str, Any] = {
    session.DEBUG_CONNECTION: True,
    session.UNTIL: 1 << 40,
    realip.KEY: realip.Original(2, ("198.51.100.7", 7)),
    limit_conn.NAME: limit_conn.REJECTED_DRY_RUN,
    limit_sess.NAME: limit_sess.REJECTED_DRY_RUN,
    limit_bandwidth.NAME: limit_bandwidth.Held((), limit_bandwidth.REJECTED),
    limit_datagram.NAME: limit_datagram.Held((), limit_datagram.REJECTED),
    ssl_preread.KEY: client_hello.ClientHello("TLSv1.3", b"one.test", b"h3"),
    filters_udp.KEY: filters_udp.Moved(b"state", (b"up", b""), (b"down",)),
}
HELD: dict[str, dict[str, Any]] = {
    "udp proxy": {
        "failed": True,
        "before": (3, 2, 1),
        "requests": 77,
        "responses": 5,
        "gso": False,
        "client_gso": False,
        "gro": True,
        "gro_hints": NEVER_GRO,
        "dropped": 9,
        "spared": -3,
        "first": b"the first one",
        "family": 0,
        "peer_name": "192.0.2.1:53",
        "started_ms": 12,
        "deadline": 1 << 60,
    }
}


# -- what there is ---------------------------------------------------------------------------------


@functools.cache
def sources() -> list[tuple[ast.Module, dict[str, Any]]]:
    """Return the syntax tree and the names of each module of the package."""
    read = []
    for found in pkgutil.walk_packages(ngxstream.__path__, "ngxstream."):
        if not found.name.endswith("__main__"):
            module = importlib.import_module(found.name)
            tree, names = ast.parse(Path(str(module.__file__)).read_text()), dict(vars(module))
            for node in ast.walk(tree):  # also those for type checkers alone
                if isinstance(node, ast.ImportFrom) and str(node.module).startswith("ngxstream"):
                    origin = importlib.import_module(str(node.module))
                    for alias in node.names:
                        names.setdefault(alias.asname or alias.name, vars(origin).get(alias.name))
            read.append((tree, names))
    return read


def value_of(node: ast.expr, names: dict[str, Any]) -> Any:
    """Return what an expression of a module's own names stands for."""
    try:
        return eval(compile(ast.Expression(node), "", "eval"), dict(names))
    except NameError:
        pytest.fail(f"{ast.unparse(node)} in {names['__name__']} is no name of the module")


def keys_written(tree: ast.Module, names: dict[str, Any]) -> set[str]:
    """Return the keys of ctx that a module writes; who writes it by other means is a failure."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr == "set_module_ctx":
                found.add(value_of(node.args[0], names))
        elif isinstance(node, ast.Attribute) and node.attr == "ctx":
            assert names["__name__"] == session.__name__, f"line {node.lineno}: ctx"
    return found


def classes_assigned(tree: ast.AST, names: dict[str, Any], owner: str = "") -> set[type]:
    """Return the classes that a module assigns to a session's content."""
    found = set()
    kinds: dict[str, ast.expr] = {"self": ast.parse(owner or "None", mode="eval").body}
    kinds |= {
        node.target.id: node.annotation
        for node in ast.walk(tree)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    for node in ast.iter_child_nodes(tree):
        owns = node.name if isinstance(node, ast.ClassDef) else owner
        found |= classes_assigned(node, names, owns)
        targets = node.targets if isinstance(node, ast.Assign) else []
        if not any(isinstance(one, ast.Attribute) and one.attr == "content" for one in targets):
            continue
        assert isinstance(node, ast.Assign)
        value = node.value
        for one in (value.body, value.orelse) if isinstance(value, ast.IfExp) else (value,):
            named = one.func if isinstance(one, ast.Call) else one
            if isinstance(one, ast.Name):
                assert one.id in kinds, f"line {node.lineno} of {names['__name__']}: annotate it"
                named = kinds[one.id]
            if not isinstance(one, ast.Constant):
                found.add(value_of(named, names))
    return found


def below(kind: type[Content]) -> Iterator[type[Content]]:
    """Give a class and all those of the package that are made of it."""
    yield kind
    for one in kind.__subclasses__():
        if one.__module__.startswith("ngxstream."):
            yield from below(one)


def slots_of(kind: type) -> set[str]:
    """Return the names of what an object of a class has."""
    found = set()
    for one in kind.__mro__:
        slots = vars(one).get("__slots__", ())
        found |= {slots} if isinstance(slots, str) else set(slots)
    return found


# -- what is said of it ----------------------------------------------------------------------------


def test_every_key_of_ctx_is_declared_by_one_module() -> None:
    """With how it moves or why it does not; nothing is declared that nobody writes."""
    written = set().union(*(keys_written(*source) for source in sources()))
    declared = [kept.key for module in MODULES for kept in module.keeps]
    written.add(core_facts.WATCHED)  # a slot of the session, and so not in ctx
    assert sorted(written) == sorted(declared)
    for kept in KEEPS.values():
        assert (kept.pack is None) == (kept.unpack is None) == bool(kept.stays), kept.key


def test_every_class_of_contents_is_declared_by_one_module() -> None:
    """With how it is read elsewhere, or why it does not move."""
    assigned = set().union(*(classes_assigned(*source) for source in sources()))
    kinds = [kind for module in MODULES for kind in module.contents]
    assert len(kinds) == len(KINDS), "two of a name"
    made = {one for one in below(Content) if not list(below(one))[1:]}
    for one in made | assigned:
        assert issubclass(one, Content), one
        # a base of several kinds, which a variable is annotated with, is no content itself
        fitting = [kind for kind in kinds if issubclass(one, kind.of) or
                   (one not in made and issubclass(kind.of, one))]
        assert fitting, f"{one} is of no kind"
        assert one not in made or len(fitting) == 1, one
    for kind in kinds:
        assert (kind.read is None) == bool(kind.stays), kind.name


def test_every_slot_of_a_content_that_moves_is_packed_or_declared() -> None:
    """Of all classes of its kind; nothing is declared that there is not."""
    for kind in KINDS.values():
        if kind.read is not None:
            slots = set().union(*map(slots_of, below(kind.of)))
            assert slots == {*HELD[kind.name], *kind.remade}
            assert not set(HELD[kind.name]) & set(kind.remade)


def test_what_is_not_declared_is_found() -> None:
    """A key, whatever names it, a class, however it is assigned."""
    tree = ast.parse("KEY = 'one'\ndef f(s):\n s.set_module_ctx(KEY, 1)\n s.set_module_ctx('b', 2)")
    assert {"one", "b"} == keys_written(tree, {"__name__": "here", "KEY": "one"})
    tree = ast.parse("s.ctx = {}")
    with pytest.raises(AssertionError):
        keys_written(tree, {"__name__": "here"})
    tree = ast.parse(
        "def f(s):\n x = s.content = A(s)\n y: B = make(s)\n s.content = y\n s.content = None\n"
        "class C:\n def g(self, s):\n  s.content = self\n  s.content = D() if s else E()\n"
    )
    names = {"__name__": "here", "A": int, "B": str, "C": bytes, "D": list, "E": dict}
    assert {int, str, bytes, list, dict} == classes_assigned(tree, names)


# -- there and back --------------------------------------------------------------------------------


# of who is counted the fact moves, what counts is each process's own: test_core_facts.py; ids are
# those of a server with proxy_quic: test_quic_state.py
@pytest.mark.parametrize(
    "key",
    [key for key, kept in KEEPS.items()
     if kept.pack is not None and key not in (core_facts.WATCHED, quic_conf.KEY)],
)
def test_what_a_module_keeps_moves(world: World, key: str) -> None:
    """The session that comes has what the one that left had."""
    world.old.only_session().set_module_ctx(key, KEPT[key])
    world.hand_over()
    assert KEPT[key] == world.new.only_session().module_ctx(key)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[(session.DEBUG_CONNECTION, value) for value in (1, False, b"\1", ())],
        *[(session.UNTIL, value) for value in ("soon", b"1", (1,))],
        *[(ssl_preread.KEY, value) for value in (1, ("TLSv1.3",), ("TLSv9", b"", b""))],
    ],
)
def test_what_is_no_part_of_a_module_s_drops_the_session(
    world: World, key: str, value: Any
) -> None:
    """In one line."""
    values, proxied, sock = world.parcel()
    values[moving.KEPT] = [(key, value)]
    world.post(values, proxied, sock.fileno())
    sock.close()
    assert not world.new.loop.sessions
    assert f"{key} cannot take its part" in world.warnings()[0]


def test_who_is_debugged_stays_so(world: World) -> None:
    """Its log takes everything."""
    world.old.only_session().debug()
    world.old.only_session().log.level = 0
    world.hand_over()
    assert 8 == world.new.only_session().log.level


@pytest.mark.parametrize(
    ("kind", "slot"), [(kind, slot) for kind, slots in HELD.items() for slot in slots]
)
def test_what_a_content_holds_moves(world: World, kind: str, slot: str) -> None:
    """The content that comes has what the one that left had; its deadline within its timeout."""
    held: Any = world.old.only_session().content
    assert isinstance(held, KINDS[kind].of)
    expected = HELD[kind][slot]
    setattr(held, slot, expected)
    if slot == "deadline":
        expected = held.deadline = world.old.loop.now_ms + 5000
    world.hand_over()
    assert expected == getattr(world.new.only_session().content, slot)


# -- what a content has that says nothing of it ----------------------------------------------------


class Bare(Content):
    """A content of a module that overrides nothing."""

    def __init__(self, s: Any) -> None:
        self.s = s


def test_a_content_that_says_nothing_stays(world: World) -> None:
    """It never gives way, is where it was after a hand-over, and ends as a failure does."""
    s: Any = world.old.only_session()
    s.content.close()
    bare = s.content = Bare(s)
    assert (None, False, "") == (bare.active_ms, bare.conversing, bare.log_suffix())
    assert (s.c.received, s.c.sent, 0, 0) == bare.counts()
    assert (content.STAYS, []) == (bare.way(), bare.waiting())
    world.hand_over()
    assert s is world.old.only_session()
    bare.on_fault()
    assert (500, set()) == (s.status, world.old.loop.sessions)
    assert not world.new.loop.sessions
