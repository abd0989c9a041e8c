"""The resolver: names to addresses, asked of DNS servers while the loop goes on.

Answers for ngx_resolver.c. What is sent and received is dns_query.py's business; here aliases are
followed, A and AAAA joined, services looked up, and answers kept.

1. A and AAAA are asked in parallel and both awaited. When the time is up, or one of the two fails,
   what the other has brought will do.
2. A name under way is looked up once, however many wait for it; each waits no longer than its own
   time allows.
3. Found addresses are kept for their TTL, or for `valid=`. That a name was not found is kept for
   the rest of the second. Names nobody asked for lately are forgotten, and there are never more
   than KEPT of them or KEPT_BYTES in all; the ones used longest ago are dropped.
4. Of one response dns.RECORDS are read, so a name has no more addresses than that in a family. A
   service has no more than ADDRESSES.
5. Those who wait for answers are called DELIVERED a turn.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from random import randrange
from typing import TYPE_CHECKING, Final, NamedTuple

from ngxstream.core import inet, ip
from ngxstream.event import timers
from ngxstream.event.dns_query import Asker, Reply
from ngxstream.event.portions import Portions
from ngxstream.wire import dns, dns_names

if TYPE_CHECKING:
    from ngxstream.event.loop import Loop

HOPS: Final = 50  # aliases followed. Source: NGX_RESOLVER_MAX_RECURSION
IDLE_MS: Final = 30_000  # what nobody asked for is forgotten. Source: ngx_resolver_create
KEPT: Final = 10_000  # names
KEPT_BYTES: Final = 8 << 20  # of memory for all of them, by the estimates below
NAME_BYTES: Final = 512  # a kept name, besides its text
ADDRESS_BYTES: Final = 208  # each of its addresses
ADDRESSES: Final = 2 * dns.RECORDS  # of one service
DELIVERED: Final = 32
TARGETS: Final = 256  # SRV records of one service that are looked at
FAMILIES: Final = {dns.A: inet.AF_INET, dns.AAAA: inet.AF_INET6}


class Address(NamedTuple):
    """One address of a name. What follows `host` is a service's."""

    family: int
    host: str
    port: int = 0
    priority: int = 0
    weight: int = 1  # 1..65535
    name: str = ""  # of the target


class Answer(NamedTuple):
    """What came of a lookup.

    Attributes: code: 0, a response code, or dns.TIMEDOUT; valid_ms: the loop's time until which
    it holds; failed: (target, code) of a service's targets that were not found
    """

    code: int
    addresses: tuple[Address, ...]
    valid_ms: int
    failed: tuple[tuple[str, int], ...] = ()


Done = Callable[[Answer], None]


class Waiter:
    """Who waits for a lookup. `done` is called once, unless cancel() comes first."""

    __slots__ = ("_done", "_lookup", "_timer", "_answer")

    def __init__(self, done: Done, lookup: _Lookup | None, timeout_ms: int) -> None:
        self._done: Done | None = done
        self._lookup = lookup
        self._answer: Answer | None = None
        self._timer = (
            lookup.resolver.loop.call_later(timeout_ms, self.on_timeout, cancelable=True)
            if lookup is not None
            else None
        )

    def on_timeout(self) -> None:
        """Take what there is by now."""
        lookup = self._lookup
        if lookup is not None:
            answer = lookup.so_far()
            self.give(answer)
            lookup.leave(self)
            if answer.code == dns.TIMEDOUT and not lookup.waiters:
                lookup.resolver.timed_out()
            self._lookup = None

    def give(self, answer: Answer) -> None:
        """Have the answer delivered at the end of this turn, whoever else waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._lookup is not None and self._done is not None:
            self._answer = answer
            self._lookup.resolver.answers.add(self.deliver)

    def deliver(self) -> None:
        """Call back."""
        self._lookup = None
        if self._done is not None and self._answer is not None:
            self._done(self._answer)
            self._done = None

    def on_fault(self) -> None:
        """End who waited, after an exception nobody expected."""
        done, self._done = self._done, None
        timers.end_owner(done)

    def cancel(self) -> None:
        """Wait no longer. Idempotent."""
        self._done = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        lookup, self._lookup = self._lookup, None
        if lookup is not None:
            lookup.leave(self)


class Resolver:
    """Looks names up for one worker, as one `resolver` directive says."""

    __slots__ = (
        "loop",
        "asker",
        "valid_s",
        "kinds",
        "lookups",
        "kept",
        "kept_bytes",  # int: what `kept` takes, by estimate
        "answers",  # Portions: of the calls to those who wait
        "_latest",  # dict: by kind, values of the latest reply and what was made of them
    )

    def __init__(self, loop: Loop, servers: Sequence[inet.Addr], valid_s: int | None = None,
                 ipv4: bool = True, ipv6: bool = True) -> None:
        """Args: servers: One at least, as one of ipv4 and ipv6; valid_s: Replaces TTLs"""
        self.loop = loop
        self.asker = self.make_asker(loop, servers)
        self.valid_s = valid_s
        self.kinds = (dns.A,) * ipv4 + (dns.AAAA,) * ipv6
        self.lookups: dict[str, _Lookup] = {}
        self.kept: dict[str, _Kept] = {}  # the one used last is last
        self.kept_bytes = 0
        self.answers = Portions(loop, DELIVERED)
        self._latest: dict[int, tuple[object, tuple[Address, ...]]] = {}

    def make_asker(self, loop: Loop, servers: Sequence[inet.Addr]) -> Asker:
        """Make what asks the servers."""
        return Asker(loop, servers)

    def asked(self, kind: int) -> None:
        """Somebody asks for what is not at hand: a name (A) or a service (SRV)."""

    def timed_out(self) -> None:
        """Nobody waits any more for what was asked, and nothing has come."""

    def lookup(self, name: str, timeout_ms: int, done: Done) -> Waiter:
        """Find a name's addresses; a known answer is given at once. Source: ngx_resolve_name"""
        literal = ip.inet_addr(name)
        if literal is not None:
            address = Address(inet.AF_INET, ip.ntop(literal))
            return self._at_once(Answer(0, (address,), self.loop.now_ms), done)
        name = canonical(name)
        if len(name) > dns_names.MAX_NAME - 2:  # neither looked at nor kept
            return self._at_once(Answer(dns.NXDOMAIN, (), self.loop.now_ms), done)
        kept = self.kept.get(name)
        if kept is not None:
            if self.loop.now_ms // 1000 <= kept.until_s:
                self.kept[name] = self.kept.pop(name)
                kept.used_ms = self.loop.now_ms
                return self._at_once(rotated(kept.answer), done)
            self._forget(name)
        lookup = self.lookups.get(name)
        known = lookup is not None
        if lookup is None:
            lookup = self.lookups[name] = _Lookup(self, name)
        waiter = Waiter(done, lookup, timeout_ms)
        lookup.waiters[waiter] = None
        if not known:
            self.asked(dns.A)
            lookup.begin()
        return waiter

    def lookup_service(self, service: str, name: str, timeout_ms: int, done: Done) -> Service:
        """Find the servers of a service by its SRV records, and their addresses.

        Args: service: `http` of example.com is asked for as _http._tcp.example.com; one with a dot
        as it is. Addresses are in the order of the records.
        Source: ngx_resolver_resolve_srv_names, ngx_resolver_report_srv
        """
        prefix = service if "." in service else f"_{service}._tcp"
        return Service(self, canonical(f"{prefix}.{name}"), timeout_ms, done)

    def _at_once(self, answer: Answer, done: Done) -> Waiter:
        waiter = Waiter(done, None, 0)
        done(answer)
        return waiter

    def life_s(self, ttl: int) -> int:
        """Return for how long an answer with this TTL holds: seconds."""
        return self.valid_s or ttl

    def finished(self, lookup: _Lookup, answer: Answer, life_s: int) -> None:
        """Keep the answer of a lookup that is through."""
        del self.lookups[lookup.name]
        now = self.loop.now_ms
        self._keep(lookup.name, _Kept(answer, now // 1000 + life_s, now))

    def _keep(self, name: str, one: _Kept) -> None:
        kept = self.kept
        if name in kept:
            self._forget(name)
        kept[name] = one
        self.kept_bytes += _size(name, one.answer)
        while kept:  # the one used longest ago is first
            oldest = next(iter(kept))
            if (
                len(kept) <= KEPT
                and self.kept_bytes <= KEPT_BYTES
                and one.used_ms - kept[oldest].used_ms <= IDLE_MS
            ):
                break
            self._forget(oldest)

    def _forget(self, name: str) -> None:
        self.kept_bytes -= _size(name, self.kept.pop(name).answer)

    def addresses(self, kind: int, values: tuple[str | dns.Srv, ...]) -> tuple[Address, ...]:
        """Make addresses of a reply's values; made once for all names that lead to that reply."""
        latest = self._latest.get(kind)
        if latest is None or latest[0] is not values:
            family = FAMILIES[kind]
            made = tuple([Address(family, host) for host in values if isinstance(host, str)])
            latest = self._latest[kind] = values, made
        return latest[1]

    def abandoned(self, lookup: _Lookup) -> None:
        """Forget a lookup nobody waits for."""
        self.lookups.pop(lookup.name, None)


class _Kept:
    """An answer that is kept."""

    __slots__ = ("answer", "until_s", "used_ms")

    def __init__(self, answer: Answer, until_s: int, used_ms: int) -> None:
        self.answer = answer
        self.until_s = until_s  # the last second in which it holds
        self.used_ms = used_ms


def _size(name: str, answer: Answer) -> int:
    """Estimate the bytes that a kept name takes."""
    return NAME_BYTES + len(name) + ADDRESS_BYTES * len(answer.addresses)


class _Chain:
    """The way from a name over its aliases to the records of one kind."""

    __slots__ = ("asker", "kind", "name", "done", "hops", "ttl", "asking")

    def __init__(self, asker: Asker, name: str, kind: int,
                 done: Callable[[_Chain, int, dns.Found], None]) -> None:
        self.asker = asker
        self.kind = kind
        self.name = name
        self.done = done
        self.hops = 0
        self.ttl = 1 << 31
        self.asking = False

    def step(self) -> None:
        """Ask for the name reached so far. Source: ngx_resolve_name_locked"""
        try:
            self.asker.ask(dns.Question(self.name, self.kind), self.on_reply)
            self.asking = True
        except dns_names.DnsError:  # no query can ask for such a name
            self._end(dns.NXDOMAIN, ())

    def on_reply(self, reply: Reply) -> None:
        """Go on to the next alias, or end."""
        if not self.asking:
            return  # cancelled while the call was on its way
        self.asking = False
        code, found = reply
        if found is None:
            self._end(code, ())
            return
        if found.values or found.name == self.name:
            self._end(0, found.values, found.ttl)
            return
        self.ttl = min(self.ttl, found.ttl)
        self.hops += 1
        if self.hops > HOPS:
            self._end(dns.NXDOMAIN, ())
            return
        self.name = found.name
        self.step()

    def _end(self, code: int, values: tuple[str | dns.Srv, ...], ttl: int = 0) -> None:
        self.done(self, code, dns.Found(self.name, min(self.ttl, ttl), values))

    def on_fault(self) -> None:
        """End the lookup that this is a part of, after an exception nobody expected."""
        timers.end_owner(self.done)

    def cancel(self) -> None:
        """Ask no more."""
        if self.asking:
            self.asking = False
            self.asker.drop(dns.Question(self.name, self.kind), self.on_reply)


class _Lookup:
    """One name being looked up, and who waits for it."""

    __slots__ = ("resolver", "name", "waiters", "chains", "codes", "addresses", "ttl")

    def __init__(self, resolver: Resolver, name: str) -> None:
        self.resolver = resolver
        self.name = name
        self.waiters: dict[Waiter, None] = {}  # in the order they came
        self.chains = [_Chain(resolver.asker, name, kind, self.on_end) for kind in resolver.kinds]
        self.codes: dict[int, int] = {}  # by kind
        self.addresses: dict[int, tuple[Address, ...]] = {}
        self.ttl = 1 << 31

    def begin(self) -> None:
        """Ask for all kinds."""
        for chain in self.chains:
            chain.step()

    def on_end(self, chain: _Chain, code: int, found: dns.Found) -> None:
        """Take what there is of one kind; finish when all are there."""
        self.codes[chain.kind] = code
        self.addresses[chain.kind] = self.resolver.addresses(chain.kind, found.values)
        if found.values:
            self.ttl = min(self.ttl, found.ttl)
        if len(self.codes) < len(self.chains):
            return
        self.chains = []  # they point back here: a cycle, and the collector is off
        answer = self.so_far()
        life_s = self.resolver.life_s(self.ttl) if not answer.code else 0
        self.resolver.finished(self, answer, life_s)
        waiters, self.waiters = self.waiters, {}
        for waiter in waiters:
            waiter.give(answer)

    def on_fault(self) -> None:
        """Have those who wait go on without an answer, after an exception nobody expected."""
        chains, self.chains = self.chains, []
        for chain in chains:
            chain.cancel()
        self.resolver.abandoned(self)
        waiters, self.waiters = self.waiters, {}
        for waiter in waiters:
            waiter.give(Answer(dns.SERVFAIL, (), self.resolver.loop.now_ms))

    def so_far(self) -> Answer:
        """Return the answer by what has come: without anything it is TIMEDOUT."""
        resolver = self.resolver
        now = resolver.loop.now_ms
        found: tuple[Address, ...] = ()
        for kind in resolver.kinds:
            found += self.addresses.get(kind, ())
        if found:
            return Answer(0, found, now + resolver.life_s(self.ttl) * 1000)
        codes = [self.codes.get(kind, dns.TIMEDOUT) for kind in resolver.kinds]
        code = next((code for code in codes if code), dns.NXDOMAIN)
        return Answer(code, (), now + (resolver.valid_s or 10) * 1000)

    def leave(self, waiter: Waiter) -> None:
        """Remove a waiter; after the last one the queries are cancelled."""
        if waiter in self.waiters:
            del self.waiters[waiter]
            if not self.waiters:
                for chain in self.chains:
                    chain.cancel()
                self.chains = []
                self.resolver.abandoned(self)


class Service:
    """A service being looked up: its SRV records first, then each target's addresses."""

    __slots__ = ("resolver", "_done", "_chain", "_until_ms", "_timer", "_records", "_waiters",
                 "_answers", "_ttl")

    def __init__(self, resolver: Resolver, name: str, timeout_ms: int, done: Done) -> None:
        loop = resolver.loop
        self.resolver = resolver
        self._done: Done | None = done
        self._until_ms = loop.now_ms + timeout_ms
        self._timer = loop.call_later(timeout_ms, self.on_timeout, cancelable=True)
        self._records: list[dns.Srv] = []
        self._waiters: list[Waiter] = []
        self._answers: dict[str, Answer | None] = {}
        self._ttl = 0
        chain = _Chain(resolver.asker, name, dns.SRV, self.on_records)
        self._chain: _Chain | None = chain  # until it has ended: it points back here
        resolver.asked(dns.SRV)
        chain.step()

    def on_timeout(self) -> None:
        """The records did not come."""
        if self._chain is not None:
            self._chain.cancel()
            self._chain = None
            self.resolver.timed_out()
        self._fail(dns.TIMEDOUT)

    def on_records(self, chain: _Chain, code: int, found: dns.Found) -> None:
        """Look the targets up."""
        self._chain = None
        self._timer.cancel()
        self._records = [
            record
            for record in dict.fromkeys(found.values)
            if isinstance(record, dns.Srv) and record.target  # "." says: not offered here
        ][:TARGETS]
        if code or not self._records:
            self._fail(code or dns.NXDOMAIN)
            return
        loop = self.resolver.loop
        self._ttl = found.ttl
        self._answers = {record.target: None for record in self._records}
        left_ms = max(0, self._until_ms - loop.now_ms)
        for name in list(self._answers):
            done = functools.partial(self._on_target, name)
            self._waiters.append(self.resolver.lookup(name, left_ms, done))

    def _on_target(self, name: str, answer: Answer) -> None:
        self._answers[name] = answer
        if None not in self._answers.values():
            # posted: the last target may have been at hand, with our caller still at work
            self.resolver.loop.post(self._finish)

    def _finish(self) -> None:
        addresses: list[Address] = []
        failed = []
        now = self.resolver.loop.now_ms
        valid_ms = now + self.resolver.life_s(self._ttl) * 1000
        for record in self._records:
            answer = self._answers[record.target]
            assert answer is not None
            if answer.code:
                if (record.target, answer.code) not in failed:
                    failed.append((record.target, answer.code))
                continue
            valid_ms = min(valid_ms, answer.valid_ms)
            addresses.extend(
                Address(family, host, record.port, record.priority, record.weight or 1,
                        record.target)
                for family, host, *_ in answer.addresses[: ADDRESSES - len(addresses)]
            )
        code = 0
        if not addresses:
            codes = [code for _, code in failed]
            code = dns.NXDOMAIN if dns.NXDOMAIN in codes else codes[0]
        self._deliver(Answer(code, tuple(addresses), valid_ms, tuple(failed)))

    def _fail(self, code: int) -> None:
        valid_ms = self.resolver.loop.now_ms + (self.resolver.valid_s or 10) * 1000
        self._deliver(Answer(code, (), valid_ms))

    def _deliver(self, answer: Answer) -> None:
        self._waiters.clear()
        if self._done is not None:
            self._done(answer)
            self._done = None

    def on_fault(self) -> None:
        """End who waits, after an exception nobody expected."""
        done = self._done
        self.cancel()
        timers.end_owner(done)

    def cancel(self) -> None:
        """Wait no longer. Idempotent."""
        self._done = None
        self._timer.cancel()
        if self._chain is not None:
            self._chain.cancel()
            self._chain = None
        for waiter in self._waiters:
            waiter.cancel()
        self._waiters.clear()


def canonical(name: str) -> str:
    """Return a name as it is asked for: ASCII letters in lower case, no final dot."""
    lower = name.encode("utf-8", "surrogateescape").lower().decode("utf-8", "surrogateescape")
    return lower.removesuffix(".")


def rotated(answer: Answer) -> Answer:
    """Return a kept answer begun anywhere in its addresses. Source: ngx_resolver_export"""
    addresses = answer.addresses
    if len(addresses) < 2:
        return answer
    first = randrange(len(addresses))
    return answer._replace(addresses=addresses[first:] + addresses[:first])
