"""The zones of one configuration: what it asks for, made anew or adopted from the one before.

Answers for ngx_shared_memory_add, and for what ngx_init_cycle does about zones (ngx_cycle.c).
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ngxstream.core import errors
from ngxstream.core.shm import Zone

Init = Callable[[Zone, bool], None]


class Usage(NamedTuple):
    """How full a zone is.

    Args: size: of one place, bytes; used, free: places; requests: how often one was asked for;
    failures: how often there was none
    """

    size: int
    used: int
    free: int
    requests: int
    failures: int = 0


class ZoneRequest:
    """What a configuration asks of one zone name.

    ``size`` is 0 until somebody has said it; `init(zone, fresh)` is called when the zone is there:
    fresh tells a new zone (build upon it, keep it in zone.data) from an adopted one. `usage` tells
    how full the zone is, once it is there
    """

    __slots__ = ("name", "size", "tag", "init", "no_reuse", "zone", "former", "usage", "is_fresh")

    def __init__(self, name: str, size: int, tag: str) -> None:
        """Args: as ZoneTable.request has them"""
        self.name = name
        self.size = size
        self.tag = tag
        self.init: Init | None = None
        self.usage: Callable[[], Usage] | None = None
        self.no_reuse = False
        self.zone: Zone | None = None
        self.is_fresh = False  # the zone is a new one
        self.former: Zone | None = None  # during init: the one of the old configuration


class ZoneTable:
    """The zones of one configuration. Source: ngx_cycle.c ngx_shared_memory_add, ngx_init_cycle"""

    __slots__ = ("requests",)

    def __init__(self) -> None:
        self.requests: dict[str, ZoneRequest] = {}

    def request(self, name: str, size: int, tag: str) -> ZoneRequest:
        """Ask for a zone, or refer to one (size 0).

        Args: tag: the name of the module whose zone it is
        Raises: ConfError where two requests do not fit together
        """
        known = self.requests.get(name)
        if known is None:
            known = self.requests[name] = ZoneRequest(name, size, tag)
            return known
        if known.tag != tag:
            raise errors.ConfError(
                f'the shared memory zone "{name}" is already declared for a different use'
            )
        if known.size == 0:
            known.size = size
        if size and size != known.size:
            raise errors.ConfError(
                f'the size {size} of shared memory zone "{name}" '
                f"conflicts with already declared size {known.size}"
            )
        return known

    def build(self, old: ZoneTable | None = None) -> None:
        """Make every zone, or adopt the old configuration's of the same name, size and owner.

        Raises: UnplacedError; what an `init` raises passes through. Call close(keep=old) then.
        """
        for request in self.requests.values():
            if request.size == 0:
                raise errors.UnplacedError(f'zero size shared memory zone "{request.name}"')
            former = None if old is None or request.no_reuse else old.requests.get(request.name)
            zone = None if former is None else former.zone
            adopted = zone is not None and (zone.size, zone.tag) == (request.size, request.tag)
            try:
                if zone is None or not adopted:
                    zone = Zone(request.name, request.size, request.tag)
                request.zone = zone
                request.is_fresh = not adopted
                request.former = None if former is None else former.zone
                if request.init is not None:
                    request.init(zone, not adopted)
            except OSError as error:
                raise _refusal(request, error) from None
            finally:
                request.former = None

    def zones(self) -> Iterator[Zone]:
        """Iterate over the zones that are there."""
        for request in self.requests.values():
            if request.zone is not None:
                yield request.zone

    def claim(self) -> None:
        """Make this process's ledgers, while it has descriptors. Raises: OSError."""
        for zone in self.zones():
            zone.claim()

    def close(self, keep: ZoneTable | None = None) -> None:
        """Let go of the zones that `keep` does not use too: an old or an abandoned table's."""
        kept = set() if keep is None else {id(zone) for zone in keep.zones()}
        for zone in self.zones():
            if id(zone) not in kept:
                zone.close()


def _refusal(request: ZoneRequest, error: OSError) -> errors.NgxError:
    """Say in nginx's words that there is not so much memory. Source: ngx_shm_alloc"""
    if error.errno != errno.ENOMEM:
        return errors.UnplacedError(
            f'shared memory zone "{request.name}" could not be made', errno=error
        )
    refusal = errors.UnplacedError(f"mmap(MAP_ANON|MAP_SHARED, {request.size}) failed", errno=error)
    refusal.level = "alert"
    return refusal
