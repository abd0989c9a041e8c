"""The API's own description, OpenAPI 3.1: made of what all modules declare.

Each operation is looked up as a request would find it, so the description has the indexes too, and
nothing that is not served.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from ngxstream import VERSION
from ngxstream.modules.api.routes import WRITES, Routes
from ngxstream.stream import api
from ngxstream.stream import schema as s

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop
    from ngxstream.stream.api import Endpoint, Operation, Request
    from ngxstream.stream.core import StreamConf

DOC: Final = """\
What a server with the `api` directive serves. Paths may end with a slash. HEAD is answered where
GET is. Every other method needs `api write=on`. All versions of NGINX Plus's API are the same."""
_NAME: Final = re.compile(r"\{(\w+)\}")
_SLASH: Final = re.compile("/")
_WORDS: Final = re.compile(r"[^A-Za-z0-9]+")
_VERSION: Final = {"type": "integer", "minimum": api.FIRST, "maximum": api.LAST}
_ERROR: Final = s.obj(
    error=s.obj(status=s.INT, text=s.TEXT, code=s.described(s.TEXT, "a word for programs")),
    request_id=s.TEXT, href=s.TEXT,
)
_ERROR_REF: Final = {"$ref": "#/components/schemas/Error"}
_TAGS: Final = {
    api.PLUS: ("plus", "The tree of NGINX Plus."),
    api.OWN: ("ngxstream", "The tree of ngxstream."),
    api.ROOT: ("root", "What is served beside them."),
}


def operations(
    endpoints: Iterable[Endpoint], prefix: str = "/api"
) -> Iterator[tuple[str, str, str, Operation]]:
    """Yield tree, path, method and operation of everything that is served, indexes too.

    Args: prefix: as of the `api` directive; a path has {names} in it, also that of the version
    """
    declared = list(endpoints)
    routes = Routes(declared)
    for tree, path in (("", prefix), ("", f"{prefix}/ngxstream"), *_paths(declared)):
        shown = path if not tree else tree.replace("/api", prefix, 1) + path
        try:
            found = routes.find(prefix, _NAME.sub("9", shown) or "/").operations
        except api.ApiError:  # nothing is served there
            continue
        for method, placed in found.items():
            yield tree or api.PLUS, shown or "/", method, placed.operation


def _paths(declared: list[Endpoint]) -> Iterator[tuple[str, str]]:
    """Yield tree and path of all endpoints, and of what stands above them; each once."""
    for tree in (api.PLUS, api.OWN, api.ROOT):
        if tree != api.ROOT:
            yield tree, ""
        spelled: dict[str, str] = {}  # by the path whose names are left out: as it is declared
        for path in [one.path.rstrip("/") for one in declared if one.tree == tree]:
            slashes = [slash.start() for slash in _SLASH.finditer(path, 1)]
            for end in (*slashes, len(path)):
                key = _NAME.sub("*", path[:end])
                if key not in spelled or end == len(path):
                    spelled[key] = path[:end]
        for path in spelled.values():
            yield tree, path


def document(endpoints: Iterable[Endpoint], prefix: str = "/api") -> dict[str, Any]:
    """Return the description. Args: as of operations()"""
    paths: dict[str, dict[str, Any]] = {}
    for tree, path, method, operation in operations(endpoints, prefix):
        paths.setdefault(path, {})[method.lower()] = _operation(tree, path, method, operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "ngxstream", "version": VERSION, "description": DOC},
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": doc} for name, doc in _TAGS.values()],
        "paths": paths,
        "components": {"schemas": {"Error": _ERROR}},
    }


def _operation(tree: str, path: str, method: str, operation: Operation) -> dict[str, Any]:
    words = [word for word in _WORDS.split(path) if word]
    made: dict[str, Any] = {
        "operationId": "_".join([method.lower(), *words]),
        "summary": operation.doc,
        "tags": [_TAGS[tree][0]],
        "parameters": [
            {"name": name, "in": "path", "required": True,
             "schema": _VERSION if name == "version" else s.TEXT}
            for name in _NAME.findall(path)
        ] + [
            {"name": one.name, "in": "query", "required": False, "description": one.doc,
             "schema": one.schema}
            for one in operation.args
        ],
    }
    if operation.takes is not None:
        made["requestBody"] = {
            "required": True, "content": {api.JSON: {"schema": operation.takes}},
        }
    reply: dict[str, Any] = {"description": "Done."}
    if operation.returns is not None or operation.kind != api.JSON:
        reply["content"] = {operation.kind: {"schema": operation.returns or s.TEXT}}
    codes = [*operation.errors, *(["MethodDisabled"] if method in WRITES else [])]
    made["responses"] = {
        str(operation.success): reply,
        "default": {
            "description": f"An error; its code may be {', '.join(codes)}." if codes else
            "An error.",
            "content": {api.JSON: {"schema": _ERROR_REF}},
        },
    }
    return made


class Described:
    """The description as a worker serves it: `loop.get(Described)`."""

    __slots__ = ("_made",)

    def __init__(self, loop: Loop) -> None:
        self._made: dict[str, tuple[StreamConf, dict[str, Any]]] = {}

    def of(self, stream: StreamConf, prefix: str) -> dict[str, Any]:
        """Return that of a configuration, made once. Args: prefix: as of operations()"""
        made = self._made.get(prefix)
        if made is None or made[0] is not stream:
            endpoints = [one for module in stream.modules for one in module.endpoints]
            made = self._made[prefix] = stream, document(endpoints, prefix)
        return made[1]


def _get(request: Request) -> api.Reply:
    prefix: str = request.s.server.api.prefix
    return api.Reply(value=request.loop.get(Described).of(request.stream, prefix))


ENDPOINTS: Final = (
    api.Endpoint(api.OWN, "/openapi.json", {
        "GET": api.Operation(_get, "This description, OpenAPI 3.1.", s.mapping({})),
    }),
)
