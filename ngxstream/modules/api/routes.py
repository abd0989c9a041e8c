"""From the path of a request to the operations of an endpoint.

1. The table is built once, of what all modules declare. Two modules may declare one path with
   different methods.
2. What has no GET of its own but stands above other endpoints is an index of them, in the order
   of NGINX Plus.
3. A path is cut at its slashes first and percent-decoded then; a slash at its end is nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from ngxstream import VERSION
from ngxstream.core import errors
from ngxstream.stream import api, schema
from ngxstream.stream.api import ApiError, Endpoint, Operation, Reply

OWN_NAME: Final = "ngxstream"
OWN_VERSION: Final = 1
VERSIONS: Final = tuple(range(api.FIRST, api.LAST + 1))
_VERSIONS: Final = frozenset(map(str, VERSIONS))
WRITES: Final = frozenset(("POST", "PUT", "PATCH", "DELETE"))
MAX_ARGS: Final = 64
_ENCODED: Final = re.compile(rb"%([0-9A-Fa-f]{2})")
_ORDER: Final = {
    name: n for n, name in enumerate((
        "nginx", "processes", "connections", "slabs", "http", "stream", "resolvers", "ssl",
        "workers", "license", "server_zones", "limit_conns", "keyvals", "zone_sync", "upstreams",
    ))
}  # fmt: skip


class Placed(NamedTuple):
    """An operation at a path. Args: names: of the segments that stand for something"""

    operation: Operation
    names: tuple[str, ...]


class Node:
    """One segment of a path."""

    __slots__ = ("children", "listed", "operations", "wild")

    def __init__(self) -> None:
        self.children: dict[str, Node] = {}
        self.wild: Node | None = None  # what stands for any segment
        self.operations: dict[str, Placed] = {}
        self.listed: dict[str, None] = {}  # names of its index

    def find(self, segments: Iterable[str]) -> tuple[Node, list[str]] | None:
        """Return the node below and what stands in the place of names."""
        node, values = self, []
        for segment in segments:
            child = node.children.get(segment)
            if child is None:
                child = node.wild
                if child is None or not segment:
                    return None
                values.append(segment)
            node = child
        return node, values


class Found(NamedTuple):
    """Where a path leads. Args: values: what stands in the place of names"""

    tree: str
    operations: Mapping[str, Placed]
    values: list[str]


class Routes:
    """All endpoints of a configuration."""

    __slots__ = ("_trees", "_versions")

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        """Raises: InternalError where two declare the same"""
        self._trees: dict[str, Node] = {tree: Node() for tree in (api.PLUS, api.OWN, api.ROOT)}
        self._versions = {
            api.PLUS: _constant(list(VERSIONS), "The versions of the API that are served."),
            api.OWN: _constant([OWN_VERSION], "The versions of ngxstream's own tree."),
        }
        for endpoint in endpoints:
            self._add(endpoint)
        for tree in (api.PLUS, api.OWN):
            top = self._trees[tree]
            _make_indexes(top)
            top.operations.setdefault("GET", _index(top))
        self._trees[api.OWN].operations["GET"] = Placed(_own_index(self._trees[api.OWN]), ())

    def _add(self, endpoint: Endpoint) -> None:
        node = self._trees[endpoint.tree]
        names = []
        segments = [segment for segment in endpoint.path.split("/") if segment]
        for segment in segments:
            if segment.startswith("{"):
                names.append(segment.strip("{}"))
                if node.wild is None:
                    node.wild = Node()
                node = node.wild
                continue
            if endpoint.listed:
                node.listed[segment] = None
            node = node.children.setdefault(segment, Node())
        for method, operation in endpoint.operations.items():
            if method in node.operations:
                raise errors.InternalError(f"{method} {endpoint.path} is declared twice")
            node.operations[method] = Placed(operation, tuple(names))

    def find(self, prefix: str, path: str) -> Found:
        """Find a path. Raises: ApiError: 400 for one that cannot be decoded, 404"""
        under = path.removeprefix(prefix)
        if under == path or under[:1] not in ("", "/"):
            return self._in(api.ROOT, _segments(path))
        segments = _segments(under)
        if not segments:
            return Found(api.PLUS, self._versions[api.PLUS], [])
        version = segments[0]
        if version in _VERSIONS:
            return self._in(api.PLUS, segments[1:])
        if version == OWN_NAME:
            if len(segments) == 1:
                return Found(api.OWN, self._versions[api.OWN], [])
            if segments[1] == str(OWN_VERSION):
                return self._in(api.OWN, segments[2:])
        raise ApiError(404, "UnknownVersion", "unknown version")

    def _in(self, tree: str, segments: list[str]) -> Found:
        found = self._trees[tree].find(segments)
        if found is None or not found[0].operations:
            raise ApiError(404, "PathNotFound", "path not found")
        return Found(tree, found[0].operations, found[1])


def _segments(path: str) -> list[str]:
    segments = path.removesuffix("/").split("/")[1:]
    return [decoded(segment) for segment in segments]


def decoded(text: str, code: str = "BadRequest") -> str:
    """Decode percent-encoded text. Raises: ApiError"""
    if "%" not in text:
        return text
    raw, count = _ENCODED.subn(_byte, text.encode("utf-8", "surrogateescape"))
    if count != text.count("%"):
        raise ApiError(400, code, "invalid percent-encoding")
    if b"\0" in raw:
        raise ApiError(400, code, "invalid character")
    return raw.decode("utf-8", "surrogateescape")


def _byte(match: re.Match[bytes]) -> bytes:
    return bytes((int(match[1], 16),))


def arguments(query: str) -> dict[str, str]:
    """Return the arguments of a query, the first of each name. Raises: ApiError"""
    args: dict[str, str] = {}
    if not query:
        return args
    for part in query.split("&", MAX_ARGS):
        if len(args) >= MAX_ARGS:
            raise ApiError(400, "BadRequest", "too many arguments")
        name, _, value = part.replace("+", " ").partition("=")
        if part:
            args.setdefault(decoded(name), decoded(value))
    return args


def _constant(value: object, doc: str) -> dict[str, Placed]:
    operation = Operation(lambda _: Reply(200, value), doc, schema.array(schema.INT))
    return {"GET": Placed(operation, ())}


def _make_indexes(node: Node) -> None:
    for child in node.children.values():
        _make_indexes(child)
    if node.wild is not None:
        _make_indexes(node.wild)
    if node.children:
        node.operations.setdefault("GET", _index(node))


def _index(node: Node) -> Placed:
    names = _names(node)
    doc = "Names of what stands below."
    return Placed(Operation(lambda _: Reply(200, names), doc, schema.array(schema.TEXT)), ())


def _names(node: Node) -> list[str]:
    return sorted(node.listed, key=lambda name: _ORDER.get(name, len(_ORDER)))


def _own_index(node: Node) -> Operation:
    names = _names(node)
    return Operation(
        lambda request: Reply(
            200, {"version": VERSION, "write": request.write, "endpoints": names}
        ),
        "The version of the program, whether changes are allowed, and what stands below.",
        schema.obj(
            version=schema.TEXT, write=schema.BOOL, endpoints=schema.array(schema.TEXT)
        ),
    )
