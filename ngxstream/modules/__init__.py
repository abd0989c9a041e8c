"""One feature each, listed in the order of nginx's auto/modules.

The order is behaviour: handlers of one phase run in reverse (stream/phases.py), and the first
module that knows a directive in a context is the one that gets it.
"""

from ngxstream.conf.module import Module
from ngxstream.modules import (
    access,
    explain,
    geo,
    geoip,
    limit_bandwidth,
    limit_conn,
    limit_datagram,
    limit_sess,
    map,  # noqa: A004 - the module is named after its directive
    metrics,
    pass_,
    realip,
    return_,
    set_,
    split_clients,
    ssl_preread,
    status,
    status_zone,
    stores,
)
from ngxstream.modules.api import module as api
from ngxstream.modules.health import module as health
from ngxstream.modules.keyval import conf as keyval
from ngxstream.modules.log import conf as log
from ngxstream.modules.proxy import module as proxy
from ngxstream.modules.proxy import ssl_conf as proxy_ssl
from ngxstream.modules.py import module as py
from ngxstream.modules.sessions import module as sessions
from ngxstream.modules.ssl import module as ssl
from ngxstream.modules.upstream import (
    details,
    dynamic,
    least_conn,
    least_time,
    random_,
    resolve,
    servers_api,
    state,
    statistics,
    transactions,
    zone,
)
from ngxstream.modules.upstream import hash as upstream_hash
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
    limit_sess.MODULE,
    limit_datagram.MODULE,
    limit_bandwidth.MODULE,
    access.MODULE,
    geo.MODULE,
    geoip.MODULE,
    map.MODULE,
    keyval.MODULE,
    stores.MODULE,
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
    statistics.MODULE,
    details.MODULE,
    dynamic.MODULE,
    state.MODULE,
    servers_api.MODULE,
    transactions.MODULE,
    health.MODULE,
    ssl_preread.MODULE,
    py.MODULE,
    explain.MODULE,
    status_zone.MODULE,
    status.MODULE,
    sessions.MODULE,
    metrics.MODULE,
    api.MODULE,
)
