"""One feature each, listed in the order of nginx's auto/modules.

The order is behaviour: handlers of one phase run in reverse (stream/phases.py), and the first
module that knows a directive in a context is the one that gets it.
"""

from ngxstream.conf.module import Module
from ngxstream.modules import (
    access,
    geo,
    geoip,
    limit_conn,
    map,  # noqa: A004 - the module is named after its directive
    pass_,
    realip,
    return_,
    set_,
    split_clients,
    ssl_preread,
)
from ngxstream.modules.log import conf as log
from ngxstream.modules.proxy import module as proxy
from ngxstream.modules.proxy import ssl_conf as proxy_ssl
from ngxstream.modules.ssl import module as ssl
from ngxstream.modules.upstream import hash as upstream_hash
from ngxstream.modules.upstream import least_conn, least_time, random_, resolve, zone
from ngxstream.stream import core, upstream_block

ALL: tuple[Module, ...] = (
    core.MODULE,
    log.MODULE,
    proxy.MODULE,
    proxy_ssl.MODULE,
    upstream_block.MODULE,
    ssl.MODULE,
    realip.MODULE,
    limit_conn.MODULE,
    access.MODULE,
    geo.MODULE,
    geoip.MODULE,
    map.MODULE,
    split_clients.MODULE,
    return_.MODULE,
    pass_.MODULE,
    set_.MODULE,
    upstream_hash.MODULE,
    least_conn.MODULE,
    least_time.MODULE,
    random_.MODULE,
    zone.MODULE,
    resolve.MODULE,
    ssl_preread.MODULE,
)
