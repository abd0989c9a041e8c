"""The resolver directive's conf; its messages are compared with nginx's in test_values_nginx."""

import socket

from ngxstream.event.resolver import Resolver
from ngxstream.event.resolver_counts import CountedResolver
from ngxstream.stream.resolver_conf import ResolverConf
from tests.support import in_process
from tests.support.engine import engine


def conf(text: str) -> ResolverConf:
    """Return the conf of one resolver line."""
    built = in_process.build(f"stream {{ resolver {text}; server {{ listen 9; return 1; }} }}")
    assert built.conf is not None, built.error
    found = built.conf.servers[0].core.resolver
    assert isinstance(found, ResolverConf)
    return found


def test_servers_and_their_ports() -> None:
    """The default port is 53; servers keep their order."""
    found = conf("127.0.0.1 127.0.0.2:5353 [::1]")
    assert [
        (socket.AF_INET, ("127.0.0.1", 53)),
        (socket.AF_INET, ("127.0.0.2", 5353)),
        (socket.AF_INET6, ("::1", 53, 0, 0)),
    ] == [(server.family, server.sockaddr) for server in found.servers]


def test_options() -> None:
    """Times in seconds, families on or off."""
    found = conf("127.0.0.1 valid=2m ipv6=off ipv4=on")
    assert (120, True, False) == (found.valid_s, found.ipv4, found.ipv6)
    assert 1 == len(found.servers)


def test_a_status_zone_is_counted() -> None:
    """By a resolver of another class; one of another name, or of none, is another resolver."""
    with engine() as loop:
        texts = ("status_zone=a", "status_zone=b", "")
        confs = [conf(f"127.0.0.1 {text}") for text in texts]
        resolvers = [one.on(loop) for one in confs]
        assert confs[0].on(loop) is resolvers[0]
    assert 3 == len({id(one) for one in resolvers})
    assert [CountedResolver, CountedResolver, Resolver] == [type(one) for one in resolvers]
    built = in_process.build("stream { resolver 127.0.0.1 status_zone=; }")
    assert f"invalid parameter: status_zone= in {in_process.CONF}:1" == built.error


def test_defaults() -> None:
    """The answers' own times, both families, and nothing held whose name is gone."""
    found = conf("127.0.0.1")
    assert (None, True, True) == (found.valid_s, found.ipv4, found.ipv6)
    assert 0 == found.hold_nx_ms


def test_a_time_to_hold() -> None:
    """hold_nx is a time; what is none is refused by its word."""
    assert 90_500 == conf("127.0.0.1 hold_nx=1m30s500ms").hold_nx_ms
    built = in_process.build("stream { resolver 127.0.0.1 hold_nx=soon; }")
    assert f"invalid parameter: hold_nx=soon in {in_process.CONF}:1" == built.error


def test_a_name_is_resolved_when_it_is_read() -> None:
    """A host name becomes its addresses."""
    assert ("127.0.0.1", 53) in [server.sockaddr for server in conf("localhost").servers]


def test_a_server_has_its_own() -> None:
    """The resolver of a server goes before that of the stream block."""
    built = in_process.build(
        """stream { resolver 127.0.0.1;
        server { listen 8; return 1; } server { listen 9; resolver 127.0.0.2; return 1; } }"""
    )
    assert built.conf is not None, built.error
    first, second = (server.core.resolver.servers[0].name for server in built.conf.servers)
    assert ("127.0.0.1:53", "127.0.0.2:53") == (first, second)


def test_no_family_is_refused() -> None:
    """ipv4=off and ipv6=off leave nothing to ask for."""
    built = in_process.build("stream { resolver 127.0.0.1 ipv4=off ipv6=off; }")
    assert f'"ipv4" and "ipv6" cannot both be "off" in {in_process.CONF}:1' == built.error
