"""/explain of the API: which server, limits and peer a client would get (stream/explaining.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ngxstream.core import inet, shm
from ngxstream.stream import core_facts, explaining
from ngxstream.stream import schema as schemas
from ngxstream.stream.api import OWN, ApiError, Argument, Endpoint, Items, Operation, Reply
from ngxstream.stream.module import StreamModule

if TYPE_CHECKING:
    from ngxstream.core.inet import SockAddr
    from ngxstream.stream.api import Request

BAD: Final = "ExplainFormatError"
NO_LISTENER: Final = "ListenerNotFound"


def _bad(text: str) -> ApiError:
    return ApiError(400, BAD, text)


def _address(request: Request, name: str, default: str = "") -> SockAddr:
    """Read an argument that is an address. Raises: ApiError"""
    text = request.args.get(name, default)
    if not text:
        raise _bad(f'"{name}" is required')
    if text.startswith("unix:"):
        return text.removeprefix("unix:")
    found = inet.parse_addr_port(text)
    if found is None:
        raise _bad(f'invalid "{name}", an ADDRESS:PORT is wanted')
    return found.sockaddr


def _get(request: Request) -> Reply:
    stream = request.stream
    protocol = request.args.get("protocol", "tcp")
    if protocol not in ("tcp", "udp"):
        raise _bad('invalid "protocol"')
    client, local = _address(request, "client"), _address(request, "local")
    name = request.args.get("server_name", "")
    listening = explaining.find(stream, protocol == "udp", local)
    if listening is None:
        over = f" over {protocol.upper()}" if isinstance(local, tuple) else ""
        raise ApiError(404, NO_LISTENER, f"nothing listens there{over}")
    try:
        asked = name.encode()
    except ValueError:
        raise _bad('invalid "server_name"') from None
    try:
        found = explaining.explain(stream, request.loop, listening, client, local, asked or None)
    except shm.DAMAGE as error:
        raise ApiError(500, "InternalError", f"shared memory cannot be read: {error}") from None
    return Reply(value=shown(found))


def shown(found: explaining.Explanation) -> dict[str, Any]:
    """Return what the API says of an explanation."""
    server = found.s.server
    chosen = found.chosen
    return {
        "listen": found.s.address.text,
        "server": core_facts.name_of(server),
        "place": f"{server.file}:{server.line}",
        "phases": found.phases,
        "variables": found.variables(),
        "limits": found.limits,
        "upstream": None if found.upstream is None else found.upstream.name,
        "peer": chosen[0].name if len(chosen) == 1 else None,
        "peers": Items(found.peers()),
        "verdict": found.verdict,
        "status": found.status or None,
        "why": found.why,
    }


RESULT: Final = schemas.obj(
    listen=schemas.described(schemas.TEXT, "The address of the listening socket."),
    server=schemas.described(schemas.TEXT, "The selected server."),
    place=schemas.described(schemas.TEXT, "Where it stands in the configuration."),
    phases=schemas.array(schemas.obj(
        phase=schemas.enum(*explaining.PHASES),
        by=schemas.described(schemas.TEXT, "The module whose handler it is."),
        outcome=schemas.TEXT,
        status=schemas.nullable(schemas.INT),
        why=schemas.TEXT,
    )),
    variables=schemas.mapping(schemas.nullable(schemas.TEXT)),
    limits=schemas.array(schemas.obj(
        zone=schemas.TEXT, key=schemas.TEXT, count=schemas.COUNT, limit=schemas.COUNT,
        rejects=schemas.BOOL, dry_run=schemas.BOOL,
    )),
    upstream=schemas.nullable(schemas.TEXT),
    peer=schemas.nullable(schemas.TEXT),
    peers=schemas.array(schemas.obj(
        server=schemas.TEXT, usable=schemas.BOOL, why=schemas.TEXT
    )),
    verdict=schemas.enum(*explaining.VERDICTS),
    status=schemas.nullable(schemas.INT),
    why=schemas.TEXT,
)

MODULE = StreamModule(
    name="explain",
    endpoints=(
        Endpoint(OWN, "/explain", {
            "GET": Operation(
                _get, "What a client would get, and why, without opening or counting anything.",
                RESULT,
                args=(
                    Argument("protocol", "`tcp` or `udp`.", schemas.enum("tcp", "udp")),
                    Argument("client", "The client's address, with or without a port."),
                    Argument("local", "The address and port that he connects to."),
                    Argument("server_name", "The name that he asks for in TLS."),
                ),
                errors=(BAD, NO_LISTENER),
            ),
        }),
    ),
)
