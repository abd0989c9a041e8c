"""Read the legacy GeoIP databases: a tree over the bits of an address (the .dat files of libGeoIP).

A database is a list of nodes with two records each, one per bit; a record below the number of
nodes is the next node, any other the answer. What the answer means depends on the edition, which
a few bytes at the end of the file name. A file is read whole: a lookup touches no disk.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from ngxstream.core import geoip_countries

# Editions, by the number in the file.
COUNTRY: Final = 1
CITY_REV1: Final = 2
ISP: Final = 4
ORG: Final = 5
CITY_REV0: Final = 6
ASNUM: Final = 9
DOMAIN: Final = 11
COUNTRY_V6: Final = 12
ASNUM_V6: Final = 21
ISP_V6: Final = 22
ORG_V6: Final = 23
DOMAIN_V6: Final = 24
CITY_REV1_V6: Final = 30
CITY_REV0_V6: Final = 31

COUNTRIES: Final = frozenset({COUNTRY, COUNTRY_V6})
CITIES: Final = frozenset({CITY_REV0, CITY_REV1, CITY_REV0_V6, CITY_REV1_V6})
NAMES: Final = frozenset({ISP, ORG, ASNUM, DOMAIN, ISP_V6, ORG_V6, ASNUM_V6, DOMAIN_V6})
V6: Final = frozenset({COUNTRY_V6, ASNUM_V6, ISP_V6, ORG_V6, DOMAIN_V6, CITY_REV1_V6, CITY_REV0_V6})
_WIDE: Final = frozenset({ISP, ORG, DOMAIN, ISP_V6, ORG_V6, DOMAIN_V6})  # records of 4 bytes
_COARSE: Final = frozenset({CITY_REV0, CITY_REV0_V6})  # cities without dma and area codes

_COUNTRY_BEGIN: Final = 0xFFFF00  # the answer for country number 0
_INFO_MAX: Final = 20  # the edition is named in the last bytes of the file
_MARK: Final = b"\xff\xff\xff"
_OLD_NUMBERS: Final = 105  # early files count editions from 106
_NAME_MAX: Final = 300


class DatabaseError(ValueError):
    """A file that is no database, or a broken one."""


@dataclass(frozen=True, slots=True)
class City:
    """What a city database knows of an address; "" is unknown."""

    country: geoip_countries.Country
    country_name: bytes
    region: bytes
    city: bytes
    postal_code: bytes
    latitude: float
    longitude: float
    dma_code: int
    area_code: int


class Database:
    """One database in memory."""

    __slots__ = ("_bits", "_data", "_segments", "_size", "edition", "utf8")

    def __init__(self, data: bytes, *, utf8: bool = False) -> None:
        """Find out what the bytes of a file are. Args: utf8: names are wanted in UTF-8

        Raises: DatabaseError
        """
        self._data = data
        self.utf8 = utf8
        at = data.rfind(_MARK, max(0, len(data) - _INFO_MAX))
        if at < 0 or at + 3 == len(data):
            raise DatabaseError("no edition is named at its end")
        edition = data[at + 3]
        self.edition = edition - _OLD_NUMBERS if edition > _OLD_NUMBERS else edition
        self._bits = 128 if self.edition in V6 else 32
        self._size = 4 if self.edition in _WIDE else 3
        self._segments = _COUNTRY_BEGIN
        if self.edition in CITIES or self.edition in NAMES:
            self._segments = int.from_bytes(data[at + 4 : at + 7], "little")
            if not 0 < 2 * self._size * self._segments < len(data):
                raise DatabaseError("its tree is longer than the file")

    @property
    def is_v6(self) -> bool:
        """Whether addresses are looked up as IPv6."""
        return self._bits == 128

    def _seek(self, packed: bytes) -> int:
        """Return the answer for an address: at least the number of segments, 0 in a broken file.

        Args: packed: 4 bytes, or 16 in a database of IPv6
        """
        data, size, segments = self._data, self._size, self._segments
        address = int.from_bytes(packed, "big")
        node = 0
        for bit in range(self._bits - 1, -1, -1):
            at = (2 * node + (address >> bit & 1)) * size
            node = int.from_bytes(data[at : at + size], "little")
            if node >= segments:
                return node
        return 0

    def country(self, packed: bytes) -> geoip_countries.Country | None:
        """Return the country of an address, or None."""
        number = self._seek(packed) - _COUNTRY_BEGIN
        return geoip_countries.COUNTRIES[number] if 0 < number < 256 else None

    def country_name(self, country: geoip_countries.Country) -> bytes:
        """Return a country's name in the charset of this database."""
        if self.utf8:
            return geoip_countries.UTF8_NAMES.get(country.code, country.name).encode()
        return country.name.encode("latin-1")

    def name(self, packed: bytes) -> bytes | None:
        """Return the organisation, provider, domain or AS of an address, or None."""
        at = self._record(packed)
        if at is None:
            return None
        return self._text(self._data[at : at + _NAME_MAX].partition(b"\0")[0])

    def city(self, packed: bytes) -> City | None:
        """Return what is known of the place of an address, or None."""
        at = self._record(packed)
        data = self._data
        if at is None or at >= len(data):
            return None
        country = geoip_countries.COUNTRIES[data[at]]
        at += 1
        words: list[bytes] = []
        for _ in range(3):
            end = data.find(b"\0", at)
            end = len(data) if end < 0 else end
            words.append(self._text(data[at:end]))
            at = end + 1
        region, city, postal_code = words
        latitude = _degrees(data[at : at + 3])
        longitude = _degrees(data[at + 3 : at + 6])
        codes = 0
        if self.edition not in _COARSE and country.code == "US":
            codes = int.from_bytes(data[at + 6 : at + 9], "little")
        return City(country, self.country_name(country), region, city, postal_code,
                    latitude, longitude, codes // 1000, codes % 1000)

    def _record(self, packed: bytes) -> int | None:
        """Return where the record of an address begins, None when there is none."""
        found = self._seek(packed)
        if found <= self._segments:
            return None
        return found + (2 * self._size - 1) * self._segments

    def _text(self, raw: bytes) -> bytes:
        return raw.decode("latin-1").encode() if self.utf8 else raw


def _degrees(raw: bytes) -> float:
    """Return degrees, rounded as libGeoIP's 32-bit floats are."""
    exact = int.from_bytes(raw, "little") / 10000 - 180
    return float(struct.unpack("f", struct.pack("f", exact))[0])
