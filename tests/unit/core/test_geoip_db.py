"""Legacy GeoIP databases: the ones of the system, and small ones made here."""

import ctypes
import ctypes.util
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.core import geoip_db
from tests.support import geoip, tools
from tests.support.geoip import FILE, FILE_V6


def geoip_library() -> ctypes.CDLL:
    """Return libGeoIP, or skip."""
    name = ctypes.util.find_library("GeoIP")
    if name is None or not FILE.exists() or not FILE_V6.exists():
        tools.missing("libGeoIP and its databases")
    library = ctypes.CDLL(name)
    library.GeoIP_open.restype = ctypes.c_void_p
    library.GeoIP_delete.argtypes = [ctypes.c_void_p]
    return library


class In6(ctypes.Structure):
    """An IPv6 address as libGeoIP takes it."""

    _fields_ = (("packed", ctypes.c_ubyte * 16),)


def codes(database: geoip_db.Database, packed: bytes) -> tuple[str, str, str] | None:
    """Return code, three-letter code and name of an address."""
    found = database.country(packed)
    return None if found is None else (found.code, found.code3, found.name)


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_countries_are_those_of_the_library(family: str) -> None:
    """A thousand addresses are in the same countries by libGeoIP and by us."""
    library = geoip_library()
    path = FILE if family == "v4" else FILE_V6
    handle = library.GeoIP_open(str(path).encode(), 1)
    database = geoip_db.Database(path.read_bytes())
    suffix = "" if family == "v4" else "_v6"
    asked: list[Callable[..., bytes | None]] = []
    for name in ("code", "code3", "name"):
        function = getattr(library, f"GeoIP_country_{name}_by_ipnum{suffix}")
        function.restype = ctypes.c_char_p
        function.argtypes = [ctypes.c_void_p, In6 if suffix else ctypes.c_ulong]
        asked.append(function)
    choose = random.Random(1)
    for _ in range(1000):
        packed = choose.randbytes(4)
        number: In6 | int = int.from_bytes(packed, "big")
        if suffix:
            packed = bytes((choose.choice((0x20, 0x24, 0x26, 0x2A)),)) + choose.randbytes(15)
            number = In6((ctypes.c_ubyte * 16)(*packed))
        expected = [function(handle, number) for function in asked]
        found = codes(database, packed)
        assert [None if w is None else w.decode() for w in expected] == list(found or [None] * 3)
    library.GeoIP_delete(handle)


def test_a_city_is_read_field_by_field() -> None:
    """A record holds country, region, city, postal code, degrees and the two codes."""
    record = b"\xe1CA\0Mountain View\x0094040\0" + geoip.CALIFORNIA
    data = geoip.database(geoip_db.CITY_REV1, 3, {"00001010": record})
    database = geoip_db.Database(data)
    found = database.city(b"\x0a\x01\x02\x03")
    assert found is not None
    assert ("US", b"United States", b"CA", b"Mountain View", b"94040", 807, 650) == (
        found.country.code, found.country_name, found.region, found.city, found.postal_code,
        found.dma_code, found.area_code,
    )
    assert ("37.3860", "-122.0838") == (f"{found.latitude:.4f}", f"{found.longitude:.4f}")
    assert database.city(b"\x0b\x01\x02\x03") is None


def test_names_are_in_the_charset_asked_for() -> None:
    """Files are in Latin-1; with utf8 the same name is UTF-8."""
    record = b"\x31\0Z\xfcrich\0\0" + bytes(6)
    data = geoip.database(geoip_db.CITY_REV0, 3, {"1": record})
    plain, utf8 = geoip_db.Database(data), geoip_db.Database(data, utf8=True)
    found = [database.city(b"\xff\0\0\0") for database in (plain, utf8)]
    assert [b"Z\xfcrich", "Zürich".encode()] == [f.city for f in found if f is not None]


def test_an_organisation_has_wide_records() -> None:
    """Databases of names have records of four bytes, those of AS numbers of three."""
    answers = {"01": b"Example Ltd\0", "1": b"Other\0"}
    wide = geoip_db.Database(geoip.database(geoip_db.ORG, 4, answers))
    narrow = geoip_db.Database(geoip.database(geoip_db.ASNUM, 3, answers))
    addresses = (b"\x7f\0\0\1", b"\x80\0\0\1", b"\0\0\0\1")
    expected = [b"Example Ltd", b"Other", None]
    assert expected == [wide.name(a) for a in addresses]
    assert expected == [narrow.name(a) for a in addresses]


@given(st.binary(max_size=400), st.binary(min_size=4, max_size=4))
def test_any_bytes_are_a_database_or_refused(data: bytes, packed: bytes) -> None:
    """A file of nonsense is refused or answers something; it never fails in another way."""
    try:
        database = geoip_db.Database(data)
    except geoip_db.DatabaseError:
        return
    address = packed * 4 if database.is_v6 else packed
    database.country(address)
    database.city(address)
    database.name(address)
