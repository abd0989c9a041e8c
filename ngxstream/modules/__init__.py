"""One feature each, listed in the order of nginx's auto/modules.

The order is behaviour: handlers of one phase run in reverse (stream/phases.py), and the first
module that knows a directive in a context gets it. A new module is one line of NAMES.
"""

import importlib
from typing import Final

from ngxstream.conf.module import Module

NAMES: Final = (
    "stream.core",
    "modules.log.conf",
    "modules.proxy.module",
    "modules.proxy.ssl_conf",
    "stream.upstream_block",
    "modules.ssl.module",
    "modules.realip",
    "modules.limit_conn",
    "modules.access",
    "modules.geo",
    "modules.geoip",
    "modules.map",
    "modules.split_clients",
    "modules.return_",
    "modules.pass_",
    "modules.set_",
    "modules.upstream.hash",
    "modules.upstream.least_conn",
    "modules.upstream.least_time",
    "modules.upstream.random_",
    "modules.upstream.zone",
    "modules.upstream.resolve",
    "modules.ssl_preread",
)
ALL: Final[tuple[Module, ...]] = tuple(
    importlib.import_module(f"ngxstream.{name}").MODULE for name in NAMES
)
