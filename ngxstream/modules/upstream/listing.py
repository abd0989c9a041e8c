"""The servers of a group as the API lists them, and how a request finds its group."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ngxstream.modules.upstream import dynamic, params, view
from ngxstream.modules.upstream.roster import Line
from ngxstream.stream.api import ApiError

if TYPE_CHECKING:
    from ngxstream.stream.api import Request
    from ngxstream.stream.upstream import Peer, ServerSpec, UpstreamConf


def group_of(request: Request, name: str) -> UpstreamConf:
    """Return the group of a name, which has a zone. Raises: ApiError"""
    conf = request.stream.upstreams.first(name)
    if conf is None or not conf.explicit:
        raise ApiError(404, "UpstreamNotFound", "upstream not found")
    if conf.zone_name is None:
        raise ApiError(400, "UpstreamStatic", "upstream is static")
    return conf


def dynamic_of(conf: UpstreamConf) -> dynamic.Group:
    """Return the balancer of a group that may change, as it is now. Raises: ApiError"""
    balancer = conf.balancer
    if not isinstance(balancer, dynamic.Group):  # no api of the block has write=on
        raise ApiError(400, "UpstreamStatic", "upstream is static")
    balancer.catch_up()
    return balancer


def specs_of(conf: UpstreamConf) -> list[ServerSpec]:
    """Return the server lines of a group, in their order."""
    balancer = conf.balancer
    return balancer.specs if isinstance(balancer, dynamic.Group) else conf.servers


def servers(conf: UpstreamConf) -> Iterator[dict[str, Any]]:
    """Return the servers of a group: each line, behind one with a name the addresses of that."""
    peers: dict[int, list[view.Shown]] = {}
    for one in view.peers(conf):
        spec = one.spec
        peers.setdefault(spec.id if spec.resolve else id(spec), []).append(one)
    return _servers(specs_of(conf), peers)


def _servers(specs: list[ServerSpec], peers: dict[int, list[view.Shown]]
             ) -> Iterator[dict[str, Any]]:
    for spec in specs:
        key = id(spec)
        if spec.resolve:
            key = spec.id
            yield params.shown(spec, spec.id, spec.name, spec.weight, -1)
        for one in peers.get(key, ()):
            peer = one.peer
            found = params.shown(one.spec, one.id, peer.name, peer.weight, one.parent)
            found["backup"] = one.backup
            yield found


def server(conf: UpstreamConf, number: int) -> dict[str, Any]:
    """Return one server of a group. Raises: ApiError"""
    balancer = conf.balancer
    if isinstance(balancer, dynamic.Group):
        balancer.catch_up()
        known = balancer.made.get(number)
        if known is not None:
            line = known.line
            return params.shown(known.spec, number, line.address or line.server, line.weight, -1)
    for one in servers(conf):
        if one["id"] == number:
            return one
    raise no_server(number)


def no_server(number: int) -> ApiError:
    """Return the error of an id that no server has."""
    return ApiError(404, "UpstreamServerNotFound", f'server "{number}" not found')


def number_of(text: str) -> int:
    """Return the id of a server. Raises: ApiError"""
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise ApiError(400, "UpstreamBadServerId", "invalid server id")
    return int(text)


def address_line(conf: UpstreamConf, number: int) -> Line | None:
    """Return what an address of a name would have as a line of its own; None for none."""
    balancer = conf.balancer
    if isinstance(balancer, dynamic.Group) and not balancer.names:
        return None
    for one in view.peers(conf):
        if one.id == number and one.parent >= 0:
            return _line_of(one.spec, one.peer, number, one.parent)
    return None


def _line_of(spec: ServerSpec, peer: Peer, number: int, parent: int) -> Line:
    return Line(
        number, peer.name, peer.name, peer.weight, spec.max_conns, spec.max_fails,
        spec.fail_timeout, spec.slow_start, spec.backup, spec.down, spec.drain, spec.service, parent
    )


def lines(found: list[Line]) -> Iterator[dict[str, Any]]:
    """Return server lines alone; one that has no id yet is shown without."""
    for line in found:
        if line.parent < 0:
            shown = params.shown(
                line.spec(), line.id, line.address or line.server, line.weight, -1
            )
            if line.id < 0:
                del shown["id"]
            yield shown


def tag_of(group: dynamic.Group) -> str:
    """Return what stands for the servers of a group as they are: an entity tag."""
    digest = hashlib.blake2b(digest_size=12)
    for line in group.lines:
        data = group.data_of(line)
        digest.update(len(data).to_bytes(4, "little") + data)
    return f'"{digest.hexdigest()}"'
