"""Operations of the API called without HTTP, on a stream block that is served in the test."""

import json
from types import SimpleNamespace
from typing import Any

from ngxstream.stream.api import PLUS, ApiError, Encoded, Items, Members, Request
from tests.support.in_process import InProcess, settle


def call(
    served: InProcess, method: str, path: str, *, tree: str = PLUS, body: Any = None, **args: str
) -> Any:
    """Call an operation; return the reply's value, its status if that is none, or the error's code.

    Args: path: below the tree's prefix; args: of the query
    """
    settle(served.conf, served.loop)
    segments = path.split("/")
    for module in served.conf.modules:
        for endpoint in module.endpoints:
            names = endpoint.path.split("/")
            if endpoint.tree != tree or method not in endpoint.operations:
                continue
            if len(names) != len(segments):
                continue
            pairs = list(zip(names, segments, strict=True))
            if all(name == segment or name[:1] == "{" for name, segment in pairs):
                given = {name.strip("{}"): segment for name, segment in pairs if name[:1] == "{"}
                return _run(served, method, endpoint.operations[method].run, given, args, body)
    raise AssertionError(f"no {method} {path}")


def _run(served: InProcess, method: str, run: Any, path: dict[str, str], args: dict[str, str],
         body: Any) -> Any:
    s: Any = SimpleNamespace(loop=served.loop)
    request = Request(s, served.conf, method, path, args, {}, body, True, lambda _: None)
    try:
        reply = run(request)
    except ApiError as error:
        return error.code
    return reply.status if reply.value is None else plain(reply.value)


def plain(value: Any) -> Any:
    """Return a value with the lazy parts of it made."""
    if isinstance(value, Members):
        return {name: plain(one) for name, one in value.pairs}
    if isinstance(value, Items):
        return [plain(one) for one in value.values]
    if isinstance(value, Encoded):
        return json.loads("".join(value.pieces))
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    return value


def families(served: InProcess, module: str) -> dict[str, dict[str, int | float]]:
    """Return what a module gives to Prometheus: samples by family."""
    settle(served.conf, served.loop)
    (found,) = (one for one in served.conf.modules if one.name == module)
    assert found.metrics is not None
    made = [one for one in found.metrics(served.loop, served.conf) if one is not None]
    return {one.name: dict(one.samples) for one in made}
