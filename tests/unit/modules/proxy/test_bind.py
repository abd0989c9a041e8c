"""modules/proxy/bind.py: which address a value of proxy_bind stands for."""

import errno
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ngxstream.core import inet
from ngxstream.event import connect
from ngxstream.modules.proxy import bind
from tests.support.in_process import build

V4_PEER = SimpleNamespace(family=inet.AF_INET, sockaddr=("198.51.100.9", 53))
V6_PEER = SimpleNamespace(family=inet.AF_INET6, sockaddr=("2001:db8::9", 53, 0, 0))


def session(sockaddr: Any, *, listening: Any = ("192.0.2.53", 53)) -> Any:
    """Return what of a session is looked at, of a UDP client."""
    made = SimpleNamespace(said=[], cleanups=[], states=None, action="")
    made.content = SimpleNamespace(peer_name="")
    made.c = SimpleNamespace(
        sockaddr=sockaddr, is_udp=True, key=sockaddr, local_sockaddr=lambda: listening
    )
    claims: dict[Any, Any] = {}
    made.loop = SimpleNamespace(get=lambda _: claims)
    made.server = SimpleNamespace(proxy=SimpleNamespace(responses=1))
    made.log_error = lambda level, message, err=None: made.said.append(message)
    made.add_cleanup = made.cleanups.append
    return made


def made_of(text: str, words: str = " transparent") -> bind.Bind:
    """Return what proxy_bind of a server says."""
    built = build(
        "stream { map $remote_addr $nothing { default ''; } server { listen 53 udp; "
        f"proxy_bind {text}{words}; proxy_pass 127.0.0.1:9; }} }}"
    )
    assert built.conf is not None, built.error
    found: bind.Bind = built.conf.listenings[0].default.default_server.proxy.bind
    return found


def local(text: str, value: str, sockaddr: Any, peer: Any = V4_PEER, **options: Any) -> Any:
    """Return the address of a session where the text's variables made this value."""
    made = made_of(text)
    compiled = SimpleNamespace(get=lambda s: value.encode(), text=text)
    found = bind.Bind(compiled, None, made.transparent, made.ported)  # type: ignore[arg-type]
    return found.local(options.pop("s", None) or session(sockaddr), peer)


ALICE = ("192.0.2.7", 1001)
CAROL = ("2001:db8::7", 1003, 0, 0)
FORMS = {
    "address": ("$remote_addr", "192.0.2.7", ALICE, ("192.0.2.7", 0)),
    "address and port": ("$remote_addr:$remote_port", "192.0.2.7:1001", ALICE, ALICE),
    "brackets around IPv4": ("[$remote_addr]:$remote_port", "[192.0.2.7]:1001", ALICE, ALICE),
    "IPv6": ("$remote_addr", "2001:db8::7", CAROL, ("2001:db8::7", 0, 0, 0)),
    "IPv6 in brackets": ("[$remote_addr]:$remote_port", "[2001:db8::7]:1003", CAROL, CAROL),
    "IPv6 without": ("$remote_addr:$remote_port", "2001:db8::7:1003", CAROL, CAROL),
    "IPv6 and a port in one": ("$both", "2001:db8::7:1003", CAROL, CAROL),
    "mapped": ("$remote_addr", "::ffff:192.0.2.7", ("::ffff:192.0.2.7", 1, 0, 0), ("192.0.2.7", 0)),
    "nothing": ("$nothing", "", ALICE, None),
}


@pytest.mark.parametrize(("text", "value", "client", "expected"), FORMS.values(), ids=FORMS)
def test_the_address_a_value_stands_for(text: str, value: str, client: Any, expected: Any) -> None:
    """Each form is bound to the client it was made of."""
    peer = V6_PEER if client is CAROL else V4_PEER
    if "$both" in text:
        text = "$remote_addr$remote_port"  # any value in which nothing tells the port apart
    assert expected == local(text, value, client, peer)


@given(st.ip_addresses(v=6), st.integers(1, 65535))
def test_no_ipv6_client_is_taken_for_another(host: Any, port: int) -> None:
    """Without brackets every IPv6 address and port is bound as itself."""
    assume(host.packed[-4:] != b"\xff\xff\xff\xff")  # nginx's own mark for "no address"
    text = inet.address_text((str(host), port, 0, 0))
    found = local("$remote_addr:$remote_port", f"{text}:{port}", (text, port, 0, 0), V6_PEER)
    assert (host.packed, port) == (inet.packed(found), found[1])


@pytest.mark.parametrize("value", ["nonsense", "192.0.2.7:", "192.0.2.7:0", ":1001"])
def test_a_transparent_bind_to_nothing_is_refused(value: str) -> None:
    """A value that is no address ends the session: our own would be taken for the client's.

    Without `transparent` it is logged and passed over, as in nginx.
    """
    with pytest.raises(connect.BindError, match="invalid local address"):
        local("$remote_addr:$remote_port", value, ALICE)
    made = made_of("$remote_addr:$remote_port", "")
    s = session(ALICE)
    compiled: Any = SimpleNamespace(get=lambda s: value.encode(), text="")
    assert bind.Bind(compiled, None, made.transparent, made.ported).local(s, V4_PEER) is None
    assert [f'invalid local address "{value}"'] == s.said


@pytest.mark.parametrize(
    ("client", "peer", "code"),
    [(CAROL, V4_PEER, errno.EAFNOSUPPORT), (ALICE, V6_PEER, errno.EINVAL)],
    ids=["IPv6 to IPv4", "IPv4 to IPv6"],
)
def test_families_that_do_not_match(client: Any, peer: Any, code: int) -> None:
    """An address of one family is no source towards another: the kernel's errno, before it."""
    with pytest.raises(connect.BindError) as caught:
        local("$remote_addr", client[0], client, peer)
    assert f"bind({client[0]}) failed" == caught.value.message
    assert code == caught.value.errno


def test_answers_belong_to_one_listening_address() -> None:
    """A second address cannot have a client's socket towards a server before the first lets go."""
    one, same = session(ALICE), session(ALICE)
    other = session(ALICE, listening=("192.0.2.53", 54))
    same.loop = other.loop = one.loop
    arguments = ("$remote_addr:$remote_port", "192.0.2.7:1001", ALICE)
    assert ALICE == local(*arguments, s=one)
    assert ALICE == local(*arguments, s=same)
    with pytest.raises(connect.BindError) as caught:
        local(*arguments, s=other)
    assert errno.EADDRINUSE == caught.value.errno
    for s in (one, same):
        for cleanup in s.cleanups:
            cleanup()
    assert {} == one.loop.get(bind.claims)
    assert ALICE == local(*arguments, s=other)


CAPABILITIES = {
    "$remote_addr": False,
    "${remote_addr}": False,
    "$realip_remote_addr": False,
    "$remote_addr:$remote_port": True,
    "[$remote_addr]:$remote_port": True,
    "$remote_addr:53": True,
    "192.0.2.1": False,
    "192.0.2.1:53": True,
    "192.0.2.1:5300": False,
}


@pytest.mark.parametrize(("text", "low"), CAPABILITIES.items(), ids=CAPABILITIES)
def test_low_ports_are_foreseen(text: str, low: bool) -> None:
    """CAP_NET_BIND_SERVICE is kept where the port that is bound to may be a low one."""
    assert low == made_of(text).may_name_a_port


@pytest.mark.parametrize(
    "text",
    ["$remote_addr:$remote_port", "${remote_addr}:${remote_port}", "[$remote_addr]:$remote_port"],
)
@pytest.mark.parametrize("client", [ALICE, CAROL], ids=["IPv4", "IPv6"])
def test_the_client_s_own_address_needs_no_reading(text: str, client: Any) -> None:
    """The usual forms take address and port from the session as they are, brackets or none."""
    made = made_of(text)
    assert made.whole
    peer = V6_PEER if client is CAROL else V4_PEER
    assert client == made.local(session(client), peer)


def test_a_unix_client_has_no_address_to_bind_to() -> None:
    """A client without an IP address cannot be the source: refused, not replaced by our own."""
    s = session("")
    made = made_of("$remote_addr:$remote_port")
    compiled: Any = SimpleNamespace(get=lambda s: b"unix::", text="")
    with pytest.raises(connect.BindError, match="invalid local address"):
        bind.Bind(compiled, None, True, made.ported, made.whole).local(s, V4_PEER)
