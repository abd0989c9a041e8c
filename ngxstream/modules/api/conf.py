"""The directives of the API: `api` and `api_user_file`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ngxstream.conf import directive as d
from ngxstream.conf.directive import SERVER, Directive
from ngxstream.core import errors, inet, ip
from ngxstream.core.hostnames import HostTable
from ngxstream.modules.api import page, policy, routes, serving, users

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope
    from ngxstream.conf.module import Module
    from ngxstream.conf.reader import Statement
    from ngxstream.event.listen_options import ListenOptions
    from ngxstream.modules.api.routes import Routes
    from ngxstream.modules.api.users import UserFile
    from ngxstream.stream.core import ServerConf, StreamConf, StreamDraft

PREFIX: Final = "/api"
VERIFY_ON: Final = 1  # of ssl_verify_client
_LOOPBACK: Final = bytes(15) + b"\1"
_PREFIX: Final = re.compile(r"(?:/[A-Za-z0-9._~-]+)+")


class Shared:
    """What all servers with an `api` have in common; filled when the block is complete."""

    __slots__ = ("page", "routes", "stream")

    routes: Routes
    stream: StreamConf

    def __init__(self) -> None:
        self.page = policy.read()

    def fill(self, conf: StreamConf) -> None:
        """Take it from a finished block."""
        self.stream = conf
        self.routes = routes.Routes(one for module in conf.modules for one in module.endpoints)


@dataclass(frozen=True, slots=True)
class ApiConf:
    """How a server serves the API."""

    shared: Shared = None  # type: ignore[assignment]  # set by `api`
    write: bool = False
    prefix: str = PREFIX
    users: UserFile | None = None
    names: HostTable[bool] = field(default_factory=HostTable)  # by which a browser may come
    file: str = ""  # where the directive stands
    line: int = 0


def _api(scope: Scope, module: Module, st: Statement) -> None:
    given = scope.given_of(module)
    if "shared" in given:
        raise errors.ConfError('"api" directive is duplicate')
    draft: StreamDraft = scope.builder.data["stream"]
    for arg in st.args:
        name, _, value = arg.partition("=")
        if arg in ("write=on", "write=off") and "write" not in given:
            given["write"] = value == "on"
        elif name == "prefix" and _PREFIX.fullmatch(value) and "prefix" not in given:
            given["prefix"] = value
        else:
            raise errors.ConfError(f'invalid parameter "{arg}"')
    shared: Shared | None = draft.data.get(page.KEY)
    if shared is None:
        shared = draft.data[page.KEY] = Shared()
        draft.finished.append(shared.fill)
    given.update(shared=shared, names=HostTable(), file=st.file, line=st.line)
    draft.is_shown = True
    draft.is_steered |= given.get("write", False)
    server: ServerConf = scope.owner
    server.serve_by(serving.handle, scope, st, slots=1)


def check(conf: ApiConf, server: ServerConf, draft: StreamDraft) -> None:
    """Refuse what cannot be served. Raises: ConfError"""
    if server.handler is not serving.handle:
        place = server.given.get("api", {}).get("_users_place")
        if place is not None:  # who thinks that it guards the server has to know
            raise errors.ConfError('"api_user_file" requires "api" in the same server', *place)
        return
    for address in server.listens:
        options = address.options
        if options.is_udp:
            raise errors.ConfError(
                f'"api" cannot be served over UDP, at "{options.text}"', conf.file, conf.line
            )
        is_guarded = (
            conf.users is not None or server.access.is_closed(options.family)
            or (options.ssl and server.ssl.verify == VERIFY_ON) or _is_local(options)
        )
        if conf.write and not is_guarded:
            draft.warn(
                f'"api" with "write=on" is open to everybody at "{options.text}": it wants "allow" '
                f'and "deny all", "api_user_file" or client certificates in {conf.file}:{conf.line}'
            )
    for name in server.names:
        if name.regex is None and not name.text.endswith(".*"):
            conf.names.add(name.text.encode("utf-8", "surrogateescape"), True)


def _is_local(options: ListenOptions) -> bool:
    """Tell whether nobody but this host gets to an address."""
    if options.family == inet.AF_UNIX:
        return True
    packed = ip.unmapped(inet.packed(options.sockaddr))
    return packed[:1] == b"\x7f" if len(packed) == 4 else packed == _LOOPBACK


def _user_file(scope: Scope, module: Module, st: Statement) -> None:
    d.put(scope, module, st, "users", None)
    if st.args[0] == "off":
        return
    scope.given_of(module)["_users_place"] = st.file, st.line
    path = scope.conf_path(st.args[0])
    try:
        with open(path, "rb") as file:
            data = file.read(users.MAX_FILE + 1)
    except OSError as error:
        raise errors.ConfError(f'open() "{path}" failed', errno=error) from None
    if len(data) > users.MAX_FILE:
        raise errors.ConfError(f'"{path}" is too large')
    try:
        scope.given_of(module)["users"] = users.UserFile(path, data)
    except ValueError as error:
        raise errors.ConfError(str(error)) from None


DIRECTIVES: Final = (
    Directive("api", SERVER, d.TAKE012, _api, "Serves the API, metrics and the live page by HTTP.",
              extension=True),
    Directive("api_user_file", d.STREAM | SERVER, d.TAKE1, _user_file,
              "Who may use the API: users and passwords, in the forms of htpasswd.",
              default="off", extension=True),
)
