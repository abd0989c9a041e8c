"""Variables of legacy GeoIP databases, as nginx with libGeoIP has them."""

import random
from pathlib import Path

import pytest

from ngxstream.core import geoip_db
from tests.support import geoip, in_process, proxies, tools, verdicts
from tests.support.clients import tcp_exchange
from tests.support.geoip import FILE, FILE_V6

SERVER = "set_real_ip_from 127.0.0.0/8; server { listen 127.0.0.1:@a@ proxy_protocol; %s }"
COUNTRY = "$geoip_country_code|$geoip_country_code3|$geoip_country_name"
CITY = (
    "$geoip_city_continent_code|$geoip_city_country_code|$geoip_city_country_code3|"
    "$geoip_city_country_name|$geoip_region|$geoip_city|$geoip_postal_code|$geoip_latitude|"
    "$geoip_longitude|$geoip_dma_code|$geoip_area_code"
)

CITIES = {
    "00001010": b"\xe1CA\0Mountain View\x0094040\0" + geoip.CALIFORNIA,  # 10.0.0.0/8
    "110000": b"\x31ZH\0Z\xfcrich\0\0" + bytes(9),  # 192.0.0.0/6
    "0111": b"\0\0\0\0" + bytes(9),  # 112.0.0.0/4
    "10": b"\x0a\0Willemstad\0\0" + (1_234_567).to_bytes(3, "little") * 3,  # 128.0.0.0/2
}
NAMES = {"00001010": b"Ten Ltd\0", "1": b"Zw\xf6lf\0", "0111": b"\0"}

CLIENTS = [
    "10.1.2.3", "192.0.2.1", "127.0.0.1", "130.0.0.1", "8.8.8.8", "255.255.255.255", "1.1.1.1",
    "::ffff:10.0.0.1", "2001:4860:4860::8888", "2a02::1", "::1",
]


def header(client: str) -> bytes:
    """Return a PROXY header that says who the client is."""
    family, local = ("TCP6", "::1") if ":" in client else ("TCP4", "127.0.0.1")
    return f"PROXY {family} {client} {local} 1000 2000\r\n".encode()


def compare(directive: str, text: str, clients: list[str], folder: Path) -> list[bytes]:
    """Return what both programs answer for each client; fail where they do not agree."""
    conf = f'stream {{ {directive} {SERVER % f"""return "{text}";"""} }}'
    with proxies.Nginx("events {} " + conf, folder) as nginx:
        theirs = [tcp_exchange(nginx.address("a"), header(client)) for client in clients]
    served = in_process.InProcess(conf)
    ours = []
    for name in clients:
        client = served.connect()
        client.sendall(header(name))
        ours.append(served.read(client))
        client.close()
    served.close()
    assert list(zip(clients, theirs, strict=True)) == list(zip(clients, ours, strict=True))
    return ours


@pytest.mark.effect("geoip_country")
@pytest.mark.parametrize("path", [FILE, FILE_V6], ids=["v4", "v6"])
def test_countries_are_nginx_s(path: Path, tmp_path: Path) -> None:
    """Code, three-letter code and name of a hundred clients of both families."""
    if not path.exists():
        tools.missing("the GeoIP databases of the system")
    choose = random.Random(8)
    clients = list(CLIENTS)
    while len(clients) < 100:
        if choose.random() < 0.5:
            clients.append(".".join(str(n) for n in choose.randbytes(4)))
        else:
            clients.append(f"2{choose.choice('0a6')}0{choose.randint(0, 9)}:" + ":".join(
                f"{choose.getrandbits(16):x}" for _ in range(7)))
    found = compare(f"geoip_country {path};", COUNTRY, clients, tmp_path)
    assert len(set(found)) > 10


@pytest.mark.effect("geoip_city")
@pytest.mark.parametrize("charset", ["", "utf8"])
@pytest.mark.parametrize("edition", [geoip_db.CITY_REV0, geoip_db.CITY_REV1])
def test_cities_are_nginx_s(edition: int, charset: str, tmp_path: Path) -> None:
    """Every field of a record, in both editions and charsets."""
    file = tmp_path / "city.dat"
    file.write_bytes(geoip.database(edition, 3, CITIES, b"a comment"))
    found = compare(f"geoip_city {file} {charset};", CITY, CLIENTS, tmp_path)
    assert found[0].startswith(b"NA|US|USA|United States|CA|Mountain View|94040|37.3860|-122.0838")


@pytest.mark.effect("geoip_org")
@pytest.mark.parametrize("charset", ["", "utf8"])
@pytest.mark.parametrize(
    ("edition", "size"),
    [(geoip_db.ORG, 4), (geoip_db.ISP, 4), (geoip_db.DOMAIN, 4), (geoip_db.ASNUM, 3)],
)
def test_organisations_are_nginx_s(edition: int, size: int, charset: str, tmp_path: Path) -> None:
    """Names of organisations, providers, domains and AS numbers."""
    file = tmp_path / "org.dat"
    file.write_bytes(geoip.database(edition, size, NAMES))
    found = compare(f"geoip_org {file} {charset};", "$geoip_org", CLIENTS, tmp_path)
    assert b"Ten Ltd" == found[0]


def test_without_a_database_nothing_is_found(tmp_path: Path) -> None:
    """The variables are there, and empty."""
    if not FILE.exists():
        tools.missing("the GeoIP databases of the system")
    # nginx needs some directive of the module's to be given it by the tests
    found = compare(f"geoip_country {FILE};", f"{CITY}$geoip_org", CLIENTS[:1], tmp_path)
    assert [b"||||||||||"] == found


REFUSED = {
    "a file that is not there": "geoip_country /none;",
    "an unknown charset": "geoip_country %(country)s latin1;",
    "a country twice": "geoip_country %(country)s; geoip_country %(country)s;",
    "an org twice": "geoip_org %(org)s; geoip_org %(org)s;",
    "a city twice": "geoip_city %(city)s; geoip_city %(city)s;",
    "cities for countries": "geoip_country %(city)s;",
    "countries for cities": "geoip_city %(country)s;",
    "countries for orgs": "geoip_org %(country)s;",
    "three words": "geoip_org a b c;",
    "a variable of ours": "geoip_org %(org)s; map $pid $geoip_org { a b; }",
    "in order": "geoip_org %(org)s; geoip_city %(city)s utf8; geoip_country %(country)s utf8;",
}


@pytest.mark.parametrize("name", REFUSED)
def test_databases_are_judged_as_by_nginx(name: str, tmp_path: Path) -> None:
    """What cannot be used is refused in the same words."""
    if not FILE.exists():
        tools.missing("the GeoIP databases of the system")
    files = {"country": FILE, "org": tmp_path / "org.dat", "city": tmp_path / "city.dat"}
    files["org"].write_bytes(geoip.database(geoip_db.ORG, 4, NAMES))
    files["city"].write_bytes(geoip.database(geoip_db.CITY_REV1, 3, CITIES))
    text = f"stream {{ {REFUSED[name] % files} server {{ listen 127.0.0.1:9; return 1; }} }}"
    assert verdicts.nginx_says(text, tmp_path) == verdicts.we_say(text)


def test_a_file_of_nonsense_is_refused(tmp_path: Path) -> None:
    """libGeoIP takes any file for a database of countries; we say what is wrong."""
    file = tmp_path / "nonsense"
    file.write_bytes(b"nonsense" * 100)
    built = in_process.build(f"stream {{ geoip_country {file}; }}")
    expected = f'GeoIP_open("{file}") failed: no edition is named at its end in {in_process.CONF}:1'
    assert expected == built.error


def test_the_name_of_a_region_is_refused(tmp_path: Path) -> None:
    """It is in no database: libGeoIP has a list of its own."""
    file = tmp_path / "city.dat"
    file.write_bytes(geoip.database(geoip_db.CITY_REV1, 3, CITIES))
    text = "server { listen 127.0.0.1:9; return $geoip_region_name; }"
    built = in_process.build(f"stream {{ geoip_city {file}; {text} }}")
    assert built.error.startswith('"geoip_region_name" variable is not supported: ')
