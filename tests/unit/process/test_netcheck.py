"""What is certain to hinder transparent servers on this host is warned of, and nothing else."""

from ngxstream.process import netcheck
from tests.support.in_process import build

TRANSPARENT = ("stream { server { listen 127.0.0.1:1; proxy_pass 127.0.0.9:2; "
               "proxy_bind $remote_addr transparent; } }")


def test_nothing_is_said_where_nothing_is_transparent() -> None:
    """The same holds for a configuration without a stream block."""
    plain = build(TRANSPARENT.replace(" transparent", ""))
    assert [[], []] == [netcheck.warnings(plain.conf), netcheck.warnings(None)]


def test_each_hindrance_is_told_once() -> None:
    """Two servers that lack the same are one line, which names what it is about."""
    made = build(TRANSPARENT.replace("} }", "} " + TRANSPARENT[len("stream { "):-2].replace(
        "127.0.0.1:1", "127.0.0.2:1") + " }"))
    said = netcheck.warnings(made.conf)
    assert len(said) == len(set(said))
    assert all(text.startswith('transparent "proxy_bind" cannot work on this host: ')
               for text in said)


def test_another_family_is_a_hindrance_on_any_host() -> None:
    """The server cannot be reached from a client's address."""
    made = build(TRANSPARENT.replace("127.0.0.1:1", "[::1]:1"))
    (said,) = [text for text in netcheck.warnings(made.conf) if "source towards" in text]
    assert "IPv6 clients of [::1]:1 cannot be the source towards 127.0.0.9:2" in said
