"""allow and deny: lists, clients, the log."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.core import ip
from ngxstream.modules.access import Rule, RuleList
from tests.support.in_process import InProcess

NETWORKS = st.tuples(st.integers(0, 15), st.integers(28, 32), st.booleans())


@given(st.lists(NETWORKS, max_size=12), st.integers(0, 15))
def test_the_first_rule_that_fits_decides(rules: list[tuple[int, int, bool]], host: int) -> None:
    """The table by prefix length says what a walk through the rules says."""
    base = 0x0A000000
    cidrs = [ip.parse_cidr(f"10.0.0.{low}/{prefix}") for low, prefix, _ in rules]
    made = [
        Rule(ip.AF_INET, cidr.packed, cidr.prefix, deny)
        for cidr, (_, _, deny) in zip(cidrs, rules, strict=True)
    ]
    address = base + host
    packed = address.to_bytes(4, "big")
    fitting = [n for n, cidr in enumerate(cidrs) if packed in cidr]
    expected = (fitting[0], made[fitting[0]].deny) if fitting else None
    assert expected == RuleList(made, 32).first(address)


def test_a_client_that_is_turned_away_is_logged() -> None:
    """The connection is closed, status 403, and the error log says why."""
    served = InProcess("stream { server { listen 127.0.0.1:@a@; deny 127.0.0.1; return hi; } }")
    assert b"" == served.read(served.connect())
    assert 403 == served.sessions[0].status
    message = "*1 access forbidden by rule while initializing session, client: 127.0.0.1, "
    assert ("error", f"{message}server: 127.0.0.1:{served.port('a')}") in served.target.lines
    served.close()


def test_a_server_with_a_rule_of_its_own_inherits_none() -> None:
    """The rules of stream count where the server has none, and all of them or none do."""
    served = InProcess(
        "stream { deny 127.0.0.1; "
        "server { listen 127.0.0.1:@a@; return a; } "
        "server { listen 127.0.0.1:@b@; allow unix:; return b; } }"
    )
    assert [b"", b"b"] == [served.read(served.connect(n)) for n in range(2)]
    served.close()


def test_a_server_without_rules_has_no_handler() -> None:
    """Where nothing is allowed or denied the access phase is empty."""
    served = InProcess("stream { server { listen 127.0.0.1:@a@; return a; } }")
    handlers = [entry[1].__module__ for entry in served.conf.listenings[0].default.engine]
    assert "ngxstream.modules.access" not in handlers
    served.close()


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ("deny 127.0.0.1; allow 127.0.0.0/8;", b""),
        ("allow 127.0.0.1; deny 127.0.0.0/8;", b"in"),
        ("deny 127.0.0.0/8; allow 127.0.0.1;", b""),
        ("allow 127.0.0.0/8; deny all;", b"in"),
        ("deny all; allow 127.0.0.1;", b""),
        ("allow all; deny 127.0.0.1;", b"in"),
        ("allow 10.0.0.0/8; allow unix:;", b"in"),
        ("deny ::/0; deny unix:;", b"in"),
        ("allow 10.0.0.0/8; deny all;", b""),
        ("deny all;", b""),
        ("allow 10.0.0.1; deny 127.0.0.0/8; allow 127.0.0.1;", b""),
        ("deny 10.0.0.1; allow 127.0.0.0/8; deny 127.0.0.1;", b"in"),
    ],
)
def test_the_first_rule_counts_however_wide_it_is(rules: str, expected: bytes) -> None:
    """A wide rule in front of a narrow one wins, and the other way round; no rule lets in."""
    served = InProcess(f"stream {{ server {{ listen 127.0.0.1:@a@; {rules} return in; }} }}")
    assert expected == served.read(served.connect())
    served.close()


def test_another_address_of_a_client_is_judged_by_the_same_rules() -> None:
    """A server without rules admits all, and asks nobody."""
    text = "server { listen 127.0.0.1:@a@; allow 192.0.2.0/24; deny all; return a; }"
    served = InProcess(f"stream {{ {text} server {{ listen 127.0.0.1:@b@; return b; }} }}")
    first, second = served.conf.servers
    assert first.admits(("192.0.2.7", 1)) and not first.admits(("192.0.3.7", 1))
    assert first.admits(("::ffff:192.0.2.7", 1, 0, 0)) and not first.admits(("::1", 1, 0, 0))
    assert second.admits is None
    served.close()
