"""The API as modules see it: what each shows of itself and lets be changed at run time.

A module declares beside its directives (StreamModule)
  endpoints   paths of the API with their operations
  metrics     families of samples for Prometheus
  questions   what every worker is asked where shared memory has no answer (stream/asking.py)
modules/api speaks HTTP and serves what all modules declare; nothing here knows of HTTP but methods
and status codes.

Source: ngx_http_api_module of NGINX Plus as documented, version 9; the tree OWN is ngxstream's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ngxstream.stream import schema as schemas

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop
    from ngxstream.stream.core import StreamConf
    from ngxstream.stream.schema import Schema
    from ngxstream.stream.session import Session

# The trees that an endpoint can stand in, as prefixes of its path.
PLUS: Final = "/api/{version}"  # versions FIRST to LAST, all the same
OWN: Final = "/api/ngxstream/1"
ROOT: Final = ""
FIRST: Final = 1
LAST: Final = 9

JSON: Final = "application/json"


class ApiError(Exception):
    """A request that cannot be met. Its reply is `{"error": {"status", "text", "code"}, …}`."""

    def __init__(self, status: int, code: str, text: str) -> None:
        """Args: status: of HTTP; code: a word for programs; text: a line for people"""
        super().__init__(text)
        self.status = status
        self.code = code
        self.text = text


class Reply(NamedTuple):
    """The answer to a request.

    Args: status: of HTTP; value: what is to be encoded as JSON (Items and Members may stand in it),
    None for no body; str or an iterable of str where `kind` is not JSON; kind: the content type;
    headers: further ones, (name, value)
    """

    status: int = 200
    value: Any = None
    kind: str = JSON
    headers: tuple[tuple[str, str], ...] = ()


class Items:
    """A JSON array whose elements are made while it is sent, a few in each turn of the loop."""

    __slots__ = ("values",)

    def __init__(self, values: Iterable[Any]) -> None:
        self.values = values


class Members:
    """A JSON object whose members are made while it is sent, a few in each turn of the loop."""

    __slots__ = ("pairs",)

    def __init__(self, pairs: Iterable[tuple[str, Any]]) -> None:
        self.pairs = pairs


class Encoded:
    """A JSON value that is encoded already, in pieces that are made while it is sent."""

    __slots__ = ("pieces",)

    def __init__(self, pieces: Iterable[str]) -> None:
        self.pieces = pieces


class Request:
    """One request, as an operation gets it."""

    __slots__ = (
        "args",  # dict[str, str]: of the query, the first of each name
        "body",  # Any: decoded JSON, None without a body
        "headers",  # Mapping[str, str]: by lower-case name
        "loop",
        "method",
        "path",  # dict[str, str]: what stood in the place of {name}
        "respond",  # respond(reply or ApiError): sends it, once, unless the client is gone
        "s",  # Session: of the client
        "stream",  # StreamConf
        "write",  # bool: whether this server's api has write=on
    )

    def __init__(
        self, s: Session, stream: StreamConf, method: str, path: dict[str, str],
        args: dict[str, str], headers: Mapping[str, str], body: Any, write: bool,
        respond: Callable[[Reply | ApiError], None],
    ) -> None:
        self.s = s
        self.loop: Loop = s.loop
        self.stream = stream
        self.method = method
        self.path = path
        self.args = args
        self.headers = headers
        self.body = body
        self.write = write
        self.respond = respond

    def fields(self) -> frozenset[str] | None:
        """Return what `?fields=` names, None where it is not given."""
        text = self.args.get("fields")
        return None if text is None else frozenset(text.split(",")) - {""}


# Returns the reply, or None when it comes later by request.respond(). Raises: ApiError
Run = Callable[[Request], Reply | None]


BAD_ARGUMENT: Final = "BadArgument"


def bad_argument(name: str) -> ApiError:
    """Return what is raised for an argument of the query that makes no sense."""
    return ApiError(400, BAD_ARGUMENT, f'invalid "{name}" value')


class Argument(NamedTuple):
    """One argument of the query."""

    name: str
    doc: str
    schema: Schema = schemas.TEXT


class Operation(NamedTuple):
    """What one method does at a path.

    Args: run: see Run; doc: a sentence; returns: of the body, None for none; success: its status;
    takes: of the request's body, None for none; args: of the query; errors: codes of ApiErrors
    """

    run: Run
    doc: str
    returns: Schema | None = None
    success: int = 200
    takes: Schema | None = None
    args: tuple[Argument, ...] = ()
    errors: tuple[str, ...] = ()
    kind: str = JSON


class Endpoint(NamedTuple):
    """One path. `operations` is by method; HEAD is GET's. Every method but GET needs write=on.

    Args: tree: PLUS, OWN or ROOT; path: begins with "/", has no "/" at its end, and {names} in it
    stand for one segment each; both forms, with and without "/" at the end, are served; listed:
    whether the index of its parent names it
    """

    tree: str
    path: str
    operations: Mapping[str, Operation]
    listed: bool = True


# -- metrics -----------------------------------------------------------------------------------

COUNTER: Final = "counter"
GAUGE: Final = "gauge"
HISTOGRAM: Final = "histogram"

# what follows the family's name (labels(), a suffix such as _bucket and its labels, or nothing),
# and the value
Sample = tuple[str, int | float]


class Family(NamedTuple):
    """One metric with all of its samples, in Prometheus's text format 0.0.4."""

    name: str
    kind: str
    doc: str
    samples: Iterable[Sample]


class Columns:
    """Samples of one family, most of whose text is that of other families: labels, and values."""

    __slots__ = ("labels", "values")

    def __init__(self, labels: Sequence[str], values: Iterable[int]) -> None:
        """Args: labels: the same sequence in all families that have the same"""
        self.labels = labels
        self.values = values

    def __iter__(self) -> Iterator[Sample]:
        """Yield them one by one."""
        return zip(self.labels, self.values, strict=True)


# Returns the families of a module at this moment, from shared memory and the configuration alone;
# None among them: there is more to look for, others may have a turn
Metrics = Callable[["Loop", "StreamConf"], Iterable[Family | None]]


def labels(**given: str) -> str:
    """Return the labels of a sample, escaped: `{zone="a"}`."""
    inner = ",".join([f'{name}="{escaped(value)}"' for name, value in given.items()])
    return f"{{{inner}}}"


def escaped(value: str) -> str:
    """Return the value of a label as it stands between quotes."""
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
