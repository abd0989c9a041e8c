"""What became of every datagram: the journals of clients and backends set against each other.

The ledger knows datagrams by session and number. One that was sent and is in nobody's journal is
lost; one that is there twice is doubled; one that came after a later one is late. A session whose
backend heard it from more than one address, or which was heard by more than one backend, moved.

The kernel drops datagrams too, for want of room in a socket's buffer, and counts them without
saying whose they were. Its count is kept apart: what is missing beyond it is the proxy's loss.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

Mark = tuple[float, str]  # CLOCK_MONOTONIC, what happened


@dataclass(frozen=True, slots=True)
class Missing:
    """One datagram that never came: whose, which, and when it was sent."""

    session: int
    number: int
    at: float


@dataclass(frozen=True, slots=True)
class Flow:
    """One direction of all sessions."""

    sent: int = 0
    got: int = 0  # without those that came twice
    missing: tuple[Missing, ...] = ()
    doubled: int = 0
    late: int = 0  # came after a later one of its session
    longest_s: float = 0.0  # that one of them was under way

    @property
    def lost(self) -> int:
        """How many never came."""
        return len(self.missing)


@dataclass(frozen=True, slots=True)
class Path:
    """A way a session took: since when, which backend heard it, from which port."""

    at: float
    backend: int
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Kernel:
    """Datagrams the kernel of a namespace dropped, by its own count."""

    buffers: int = 0  # RcvbufErrors and MemErrors, IPv4 and IPv6
    device: int = 0  # the loopback's queue was full
    ports: Mapping[int, int] = field(default_factory=dict)  # drops of open sockets by local port

    @property
    def lost(self) -> int:
        """All of them."""
        return self.buffers + self.device


@dataclass(frozen=True, slots=True)
class Account:
    """The whole ledger of a run."""

    sessions: tuple[int, ...]
    up: Flow
    down: Flow
    paths: Mapping[int, tuple[Path, ...]]
    mangled: int = 0  # datagrams that were not as they were sent, or came to a stranger
    kernel: Kernel = Kernel()
    marks: tuple[Mark, ...] = ()
    excused: frozenset[int] = frozenset()  # sessions whose worker was killed: they may start anew
    remark: str = ""
    late_turns: int = 0  # datagrams the clients did not send in time: the machine was busy
    kept_waiting_s: float = 0.0  # so did a worker that serves at the end wait for a processor

    @property
    def lost(self) -> int:
        """How many datagrams are missing, both ways, whoever lost them."""
        return self.up.lost + self.down.lost

    @property
    def ours(self) -> int:
        """How many are missing beyond those the kernel says it dropped."""
        return max(0, self.lost - self.kernel.lost)

    @property
    def moved(self) -> list[int]:
        """The sessions that a backend heard from more than one port."""
        return [session for session in self.sessions if len(self.paths.get(session, ())) > 1]

    @property
    def unheard(self) -> list[int]:
        """The sessions no backend ever heard."""
        return [session for session in self.sessions if not self.paths.get(session)]

    @property
    def harm(self) -> dict[str, int]:
        """What must be nought where nothing may be lost; the excused sessions' is not in it."""
        held = self.of(s for s in self.sessions if s not in self.excused)
        found = {
            "lost by the proxy": held.ours,
            "moved": len(held.moved),
            "unheard": len(held.unheard),
            "doubled": self.up.doubled + self.down.doubled,
            "mangled": self.mangled,
        }
        return {what: count for what, count in found.items() if count}

    def of(self, sessions: Iterable[int]) -> "Account":
        """Return the account of some sessions only. Args: times and counts as in the whole"""
        wanted = set(sessions)

        def part(flow: Flow) -> Flow:
            missing = tuple(m for m in flow.missing if m.session in wanted)
            return replace(flow, missing=missing)

        return Account(
            tuple(s for s in self.sessions if s in wanted), part(self.up), part(self.down),
            {s: paths for s, paths in self.paths.items() if s in wanted},
            self.mangled, self.kernel, self.marks, self.excused & wanted, self.remark,
            self.late_turns, self.kept_waiting_s,
        )

    def story(self) -> str:
        """Tell what went wrong and when, for the message of a failed assertion."""
        lines = [
            f"{len(self.sessions)} sessions; sent up {self.up.sent}, down {self.down.sent}",
            f"harm: {self.harm}; late: {self.up.late} up, {self.down.late} down",
            f"longest under way: {self.up.longest_s:.3f} s up, {self.down.longest_s:.3f} s down",
            f"kernel: {self.kernel.buffers} dropped for want of buffer, {self.kernel.device} by lo",
            f"turns the clients gave up, being late: {self.late_turns}",
            f"a worker waited for a processor: {self.kept_waiting_s:.3f} s",
            f"dropped at open sockets, by port: {dict(self.kernel.ports)}",
        ]
        events: list[tuple[float, str]] = [(at, f"-- {what}") for at, what in self.marks]
        for name, flow in (("up", self.up), ("down", self.down)):
            events += _bunches(f"lost {name}", [(m.at, m.session) for m in flow.missing])
        changes = [(p.at, s) for s in self.moved for p in self.paths[s][1:]]
        events += _bunches("moved", changes)
        begin = min((at for at, _ in events), default=0.0)
        lines += [f"{at - begin:9.3f} s  {what}" for at, what in sorted(events)]
        return "\n".join(lines)


def _bunches(what: str, events: list[tuple[float, int]]) -> list[tuple[float, str]]:
    """Gather events of a tenth of a second into one line."""
    found: dict[int, list[int]] = {}
    for at, session in sorted(events):
        found.setdefault(int(at * 10), []).append(session)
    return [
        (at / 10, f"{what}: {len(who)} of {len(set(who))} sessions, e.g. {sorted(set(who))[:5]}")
        for at, who in found.items()
    ]


def flow(
    sent: Mapping[int, list[float]],
    got: Mapping[int, list[int]],
    came: Mapping[int, list[float]],
) -> tuple[Flow, int]:
    """Set what was sent against what came.

    Args: sent[session][number] is a time; got[session] are numbers in order of arrival,
    came[session] their times
    Returns: the flow, and how many arrived that nobody sent
    """
    missing: list[Missing] = []
    arrived = doubled = late = strange = 0
    longest = 0.0
    for session, times in sent.items():
        numbers = Counter(got.get(session, ()))
        missing += [Missing(session, n, at) for n, at in enumerate(times) if n not in numbers]
    for session, numbers_got in got.items():
        times = sent.get(session, ())
        seen: set[int] = set()
        highest = -1
        for number, at in zip(numbers_got, came[session], strict=True):
            if number < len(times):
                longest = max(longest, at - times[number])
            else:
                strange += 1
            doubled += number in seen
            late += number < highest and number not in seen
            seen.add(number)
            highest = max(highest, number)
        arrived += len(seen)
    total = sum(map(len, sent.values()))
    return Flow(total, arrived, tuple(missing), doubled, late, longest), strange


def account(
    clients: Iterable[Mapping[str, Any]],
    backends: Mapping[str, Any],
    kernel: Kernel | None = None,
    marks: Iterable[Mark] = (),
) -> Account:
    """Settle the journals of one or more crowds of clients and of their backends.

    Args: the journals of tests.support.udp_crowd; sessions' numbers may be text, as JSON has it
    """
    sent_up: dict[int, list[float]] = {}
    got_down: dict[int, list[int]] = {}
    came_down: dict[int, list[float]] = {}
    mangled = backends["mangled"]
    late_turns = 0
    for journal in clients:
        for i, sent in enumerate(journal["sent"], journal["first"]):
            sent_up[i] = sent
            got_down[i] = journal["got"][i - journal["first"]]
            came_down[i] = journal["came"][i - journal["first"]]
        mangled += journal["mangled"]
        late_turns += journal["skipped"]
    sent_down, got_up, came_up = (
        {int(session): found for session, found in backends[what].items()}
        for what in ("sent", "got", "came")
    )
    up, strange_up = flow(sent_up, got_up, came_up)
    down, strange_down = flow(sent_down, got_down, came_down)
    paths = {
        int(session): tuple(sorted((Path(*path) for path in found), key=lambda p: p.at))
        for session, found in backends["paths"].items()
    }
    mangled += strange_up + strange_down
    return Account(
        tuple(sorted(sent_up)),
        up,
        down,
        paths,
        mangled=mangled,
        kernel=kernel or Kernel(),
        marks=tuple(marks),
        late_turns=late_turns,
    )


def kernel_counts(pid: int) -> Kernel:
    """Read what the kernel dropped in the network namespace of a process since it was made."""
    buffers = device = 0
    folder = f"/proc/{pid}/net"
    with open(f"{folder}/snmp") as file:
        names, values = (line.split() for line in file if line.startswith("Udp:"))
    four = dict(zip(names[1:], values[1:], strict=True))
    buffers += int(four["RcvbufErrors"]) + int(four.get("MemErrors", 0))
    with open(f"{folder}/snmp6") as file:
        six = dict(line.split() for line in file)
    buffers += int(six.get("Udp6RcvbufErrors", 0)) + int(six.get("Udp6MemErrors", 0))
    with open(f"{folder}/dev") as file:
        for line in file:
            name, _, counts = line.partition(":")
            if name.strip() == "lo":
                device += int(counts.split()[3])  # received and dropped
    ports: Counter[int] = Counter()
    for table in ("udp", "udp6"):
        with open(f"{folder}/{table}") as file:
            next(file)
            for line in file:
                words = line.split()
                if int(words[-1]):
                    ports[int(words[1].rpartition(":")[2], 16)] += int(words[-1])
    return Kernel(buffers, device, dict(ports))
