"""geoip_country, geoip_org, geoip_city: variables from legacy GeoIP databases.

Answers for ngx_stream_geoip_module.c; the files are read by core/geoip_db.py, without libGeoIP.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ngxstream.conf.directive import STREAM, TAKE12, Directive, Setter
from ngxstream.core import errors, files, geoip_db, inet, ip
from ngxstream.stream.module import StreamModule
from ngxstream.stream.variables import Variable

if TYPE_CHECKING:
    from ngxstream.conf.builder import Scope
    from ngxstream.conf.module import Module
    from ngxstream.conf.reader import Statement
    from ngxstream.stream.core import StreamDraft
    from ngxstream.stream.session import Session
    from ngxstream.stream.variables import Getter

KEY: Final = "geoip"  # where the draft keeps the databases
_NOWHERE: Final = b"\xff\xff\xff\xff"
_MAPPED: Final = bytes(10) + b"\xff\xff"


def _address(s: Session, database: geoip_db.Database) -> bytes:
    """Return the address as a database wants it. Source: ngx_stream_geoip_addr, …_addr_v6"""
    packed = inet.packed(s.c.sockaddr)
    if database.is_v6:
        return _MAPPED + packed if len(packed) == 4 else packed or bytes(16)
    packed = ip.unmapped(packed)
    return packed if len(packed) == 4 else _NOWHERE


def _no_value(s: Session) -> bytes | None:
    return None


def _country(database: geoip_db.Database, field: str) -> Getter:
    def get(s: Session) -> bytes | None:
        country = database.country(_address(s, database))
        if country is None:
            return None
        if field == "name":
            return database.country_name(country)
        return str(getattr(country, field)).encode()

    return get


def _org(database: geoip_db.Database) -> Getter:
    return lambda s: database.name(_address(s, database))


def _city(database: geoip_db.Database, take: Callable[[geoip_db.City], bytes]) -> Getter:
    def get(s: Session) -> bytes | None:
        city = database.city(_address(s, database))
        return None if city is None else take(city) or None

    return get


def _degrees(value: float) -> bytes:
    """Spell with four decimals as ngx_sprintf does: halves are rounded up, away from zero."""
    whole, rest = divmod(int(abs(value) * 10000 + 0.5), 10000)
    return b"%s%d.%04d" % (b"-" if value < 0 else b"", whole, rest)


COUNTRY_FIELDS: Final = {
    "geoip_country_code": "code",
    "geoip_country_code3": "code3",
    "geoip_country_name": "name",
}
CITY_FIELDS: Final[dict[str, Callable[[geoip_db.City], bytes]]] = {
    "geoip_city_continent_code": lambda city: city.country.continent.encode(),
    "geoip_city_country_code": lambda city: city.country.code.encode(),
    "geoip_city_country_code3": lambda city: city.country.code3.encode(),
    "geoip_city_country_name": lambda city: city.country_name,
    "geoip_region": lambda city: city.region,
    "geoip_city": lambda city: city.city,
    "geoip_postal_code": lambda city: city.postal_code,
    "geoip_latitude": lambda city: _degrees(city.latitude),
    "geoip_longitude": lambda city: _degrees(city.longitude),
    "geoip_dma_code": lambda city: b"%d" % city.dma_code,
    "geoip_area_code": lambda city: b"%d" % city.area_code,
}
REGION_NAME: Final = "geoip_region_name"

DOCS: Final = {
    "geoip_country_code": "Country of the client, two letters.",
    "geoip_country_code3": "Country of the client, three letters.",
    "geoip_country_name": "Country of the client, its name.",
    "geoip_org": "Organisation, provider, domain or AS of the client.",
    "geoip_city_continent_code": "Continent of the client, two letters.",
    "geoip_city_country_code": "Country of the client by the city database, two letters.",
    "geoip_city_country_code3": "Country of the client by the city database, three letters.",
    "geoip_city_country_name": "Country of the client by the city database, its name.",
    "geoip_region": "Region of the client, its code.",
    "geoip_city": "City of the client.",
    "geoip_postal_code": "Postal code of the client.",
    "geoip_latitude": "Latitude of the client's city.",
    "geoip_longitude": "Longitude of the client's city.",
    "geoip_dma_code": "Metropolitan area of a client in the United States.",
    "geoip_area_code": "Telephone area of a client in the United States.",
    REGION_NAME: "Region of the client, its name: not served, see docs/divergences.md.",
}
VARIABLES: Final = tuple(Variable(name, _no_value, 0, doc) for name, doc in DOCS.items())


def _database(kind: str, editions: frozenset[int], words: str) -> Setter:
    """Make the setter that reads one database."""

    def set_database(scope: Scope, module: Module, st: Statement) -> None:
        databases = scope.owner.data.setdefault(KEY, {})
        if kind in databases:
            raise errors.ConfError(f'"{st.directive}" directive is duplicate')
        path = files.c_string(st.args[0])
        try:
            with open(path.encode("utf-8", "surrogateescape"), "rb") as file:
                database = geoip_db.Database(file.read(), utf8=st.args[1:] == ["utf8"])
        except OSError:
            raise errors.ConfError(f'GeoIP_open("{path}") failed') from None
        except geoip_db.DatabaseError as error:
            raise errors.ConfError(f'GeoIP_open("{path}") failed: {error}') from None
        if st.args[1:] not in ([], ["utf8"]):
            raise errors.ConfError(f'invalid parameter "{st.args[1]}"')
        if database.edition not in editions:
            raise errors.ConfError(
                f'invalid GeoIP {words}database "{path}" type:{database.edition}'
            )
        databases[kind] = database

    return set_database


def _finish(draft: StreamDraft) -> None:
    """Give the variables their databases; without one they are not found."""
    databases: dict[str, geoip_db.Database] = draft.data.get(KEY, {})
    known = draft.variables.known
    if "country" in databases:
        for name, field in COUNTRY_FIELDS.items():
            known[name] = Variable(name, _country(databases["country"], field))
    if "org" in databases:
        known["geoip_org"] = Variable("geoip_org", _org(databases["org"]))
    if "city" in databases:
        for name, take in CITY_FIELDS.items():
            known[name] = Variable(name, _city(databases["city"], take))
        if REGION_NAME in draft.variables.refs:
            raise errors.UnplacedError(
                f'"{REGION_NAME}" variable is not supported: the names of regions are not in the '
                'database, use "geoip_region"'
            )


MODULE = StreamModule(
    name="geoip",
    directives=(
        Directive("geoip_country", STREAM, TAKE12,
                  _database("country", geoip_db.COUNTRIES, ""),
                  "A legacy GeoIP database of countries."),
        Directive("geoip_org", STREAM, TAKE12,
                  _database("org", geoip_db.NAMES, ""),
                  "A legacy GeoIP database of organisations, providers, domains or AS numbers."),
        Directive("geoip_city", STREAM, TAKE12,
                  _database("city", geoip_db.CITIES, "City "),
                  "A legacy GeoIP database of cities."),
    ),
    variables=VARIABLES,
    finish=_finish,
)
