"""The rooms: one feature each, listed in the order of nginx's auto/modules.

The order is behaviour: handlers of one phase run in reverse (stream/phases.py), and the first
module that knows a directive in a context is the one that gets it.
"""

from ngxstream.conf.module import Module
from ngxstream.stream import core, upstream_block

ALL: tuple[Module, ...] = (
    core.MODULE,
    # log, proxy,
    upstream_block.MODULE,
    # ssl, realip, limit_conn, access, geo, geoip, map, split_clients, return_, pass_, set_,
    # upstream.hash, upstream.least_conn, upstream.least_time, upstream.random, upstream.zone,
    # ssl_preread
)
