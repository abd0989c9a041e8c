"""What the API says of certificates."""

import time

import pytest

from ngxstream.core import clock
from ngxstream.process.certificates import MODULE, Certificate
from tests.support import certs, families, ports
from tests.support.api_calls import OWN, get
from tests.support.proxies import ProxyFactory
from tests.unit.process.test_cycle import EVENTS, HEAD, World, world
from tests.unit.process.test_status import conf

__all__ = ["world"]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> certs.Authority:
    """Give an authority."""
    return certs.Authority(tmp_path_factory.mktemp("ca"))


def use(pair: certs.Pair) -> str:
    """Return the directives that serve a certificate."""
    return f"ssl_certificate {pair.cert}; ssl_certificate_key {pair.key};"


def test_each_certificate_is_shown_once_with_the_servers_that_serve_it(
    ngxstream: ProxyFactory, authority: certs.Authority
) -> None:
    """Subject, names and end as the certificate says; several of one server, one of several."""
    one = authority.issue("one.test", names=("*.one.test",), subject="/O=Co, Ltd/CN=one.test")
    two = authority.issue("two.test", kind="rsa", days="100")
    program = ngxstream(conf(
        f"server {{ listen 127.0.0.1:@a@ ssl; server_name one.test; {use(one)} return a; }}"
        f"server {{ listen 127.0.0.1:@a@ ssl; server_name b; {use(one)} {use(two)} return b; }}"
        f"server {{ listen 127.0.0.1:@c@; {use(two)} return c; }}"
        "server { listen 127.0.0.1:@a@ ssl; server_name c; ssl_reject_handshake on; return c; }"
        "server { listen 127.0.0.1:@a@ ssl; server_name d; return d; }"
    ))
    first, second = get(program, f"{OWN}/certificates")["certificates"]
    end_s = clock.parse_rfc3339(first.pop("not_after")) / 1000
    assert 29 * 86_400 < end_s - time.time() < 31 * 86_400
    address = f"127.0.0.1:{program.port('a')}"
    assert {
        "file": str(one.cert), "subject": r"O=Co\, Ltd,CN=one.test",
        "names": ["one.test", "*.one.test"], "days_left": 29,
    } == {name: first[name] for name in first if name != "servers"}
    assert f"{address} one.test" == first["servers"][0]
    assert (str(two.cert), 99) == (second["file"], second["days_left"])
    assert first["servers"][1:] == second["servers"]


def test_what_is_chosen_for_each_client_is_shown_as_unknown(
    ngxstream: ProxyFactory, authority: certs.Authority
) -> None:
    """By the words of the directive; one that stands in the configuration itself has no path."""
    pair = authority.issue("x.test")
    pem = pair.cert.read_text().strip()
    program = ngxstream(conf(
        "server { listen 127.0.0.1:@a@ ssl; ssl_certificate $ssl_server_name.crt; "
        f"ssl_certificate_key {pair.key}; return a; }}"
        f'server {{ listen 127.0.0.1:@b@ ssl; ssl_certificate "data:{pem}"; '
        f"ssl_certificate_key {pair.key}; return a; }}"
    ))
    chosen, inline = get(program, f"{OWN}/certificates")["certificates"]
    del chosen["servers"]
    assert {"file": "$ssl_server_name.crt", "subject": "", "names": [], "not_after": None,
            "days_left": None} == chosen
    assert ("data:", "CN=x.test") == (inline["file"], inline["subject"])


def test_days_are_whole_and_below_0_when_a_certificate_has_ended() -> None:
    """One that ends today has none left; of one that is not known nothing is said."""
    one = Certificate("x")
    assert one.days_left(0.5) is None
    one.end_s = 10 * 86_400
    assert [9, 0, 0, -1, -2] == [
        one.days_left(day * 86_400) for day in (0.1, 9.9, 10, 10.1, 11.5)
    ]


def test_a_configuration_without_tls_has_none(ngxstream: ProxyFactory) -> None:
    """The list is empty."""
    assert {"certificates": []} == get(ngxstream(conf()), f"{OWN}/certificates")


def test_prometheus_is_told_when_certificates_end(
    world: World, authority: certs.Authority
) -> None:
    """By file; of those that stand in the configuration itself, when the first of them ends."""
    pairs = [authority.issue(f"m{days}.test", days=str(days)) for days in (50, 20, 40)]
    servers = "".join(
        f"server {{ listen 127.0.0.1:{ports.free_port()} ssl; ssl_certificate {cert}; "
        f"ssl_certificate_key {pair.key}; return x; }}"
        for pair, cert in zip(pairs, (
            pairs[0].cert, *(f'"data:{pair.cert.read_text().strip()}"' for pair in pairs[1:]),
        ), strict=True)
    )
    api = f"server {{ listen 127.0.0.1:{ports.free_port()}; api; }}"
    served = families.Served(world.build(HEAD + EVENTS + f"stream {{ {api} {servers} }}"))
    said = served.samples(MODULE)
    served.close()
    left = "ngxstream_certificate_left_seconds"
    assert {f'{left}{{file="{pairs[0].cert}"}}': 49, f'{left}{{file="data:"}}': 19} == {
        name: value // 86_400 for name, value in said.items() if name.startswith(left)
    }
    end_s = said['ngxstream_certificate_not_after_timestamp_seconds{file="data:"}']
    assert 19 * 86_400 < end_s - time.time() < 21 * 86_400
