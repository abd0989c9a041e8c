"""A server made up for tests of the live page: groups, zones, traffic, and what its API says.

Its answers are those of the API, with numbers of a model that moves on when it is told to. Tests
change it while it is served (tests/support/dashboard_api.py).
"""

import math
import re
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

EPOCH = 1_795_960_800.0  # 2026-11-29 14:00 UTC: when the example begins
MS_BOUNDS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 60000]
DATAGRAM_BOUNDS = [1, 2, 4, 8, 16, 32, 64, 128, 256, 1024]
TIMED_OUT = (
    "upstream timed out (110: Connection timed out) while connecting to upstream, client: "
    '192.0.2.17, server: 0.0.0.0:993, upstream: "10.0.1.22:993", bytes from/to client:0/0, '
    "bytes from/to upstream:0/0"
)
NO_LIVE = (
    "no live upstreams while connecting to upstream, client: 192.0.2.40, server: 0.0.0.0:1883, "
    'upstream: "mqtt", bytes from/to client:0/0, bytes from/to upstream:0/0'
)
LINES = (  # of the error log: seconds ago, level, text
    (8_000, "notice", "signal process started"),
    (7_400, "warn", "upstream server temporarily disabled while connecting to upstream"),
    (1_900, "error", TIMED_OUT),
    (240, "error", NO_LIVE),
)
LEVELS = ["debug", "info", "notice", "warn", "error", "crit", "alert", "emerg"]

Json = Any


def stamp(when: float) -> str:
    """Return a time as the API writes it."""
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(when))
    return f"{whole}.{int(when % 1 * 1000):03}Z"


def histogram(bounds: list[int], around: float, count: int) -> Json:
    """Return a histogram whose values lie around one, on a logarithmic scale."""
    shares = [math.exp(-((math.log(bound) - math.log(around)) ** 2)) for bound in bounds]
    counts = [int(count * share / sum(shares)) for share in shares]
    return {
        "bounds": bounds, "counts": [*counts, 0], "sum": int(around * count), "count": sum(counts)
    }


class Refusal(Exception):
    """An answer that is an error of the API."""

    def __init__(self, status: int, code: str, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.error = {"error": {"status": status, "text": text, "code": code}, "request_id": "0"}


class Model:
    """A server with some groups, zones and traffic. Attributes are there to be changed by tests."""

    def __init__(self) -> None:
        self.write = True
        self.version = "1.0.0"
        self.generation = 3
        self.ppid = 4100
        self.orphaned = False  # the master was killed
        self.pids = [4101, 4102]
        self.respawned = 0
        self.absent: set[str] = set()  # endpoints that are not there
        self.broken: dict[str, bytes] = {}  # endpoints that answer nonsense
        self.accepted = 184_224
        self.dropped = 0
        self.zones: dict[str, Json] = {}
        self.groups: dict[str, Json] = {}
        self.sessions: list[Json] = []
        self.log: list[Json] = []
        self.reloads: list[Json] = []
        self.certificates: list[Json] = []
        self.resolvers: dict[str, Json] = {}
        self.load: dict[str, Callable[[float], float]] = {}  # zone -> sessions a second, by time
        self.way: dict[str, str] = {}  # zone -> group
        self.size: dict[str, tuple[int, int]] = {}  # zone -> bytes of a session each way
        self.started = 0.0
        self.loaded = 0.0
        self.now = 0.0
        self._rest: dict[str, float] = {}

    def zone(self, name: str, load: Callable[[float], float], group: str = "",
             size: tuple[int, int] = (90, 400), ssl: bool = False) -> None:
        """Add a server zone with its traffic."""
        one: Json = {
            "processing": 0, "connections": 0,
            "sessions": {"2xx": 0, "4xx": 0, "5xx": 0, "total": 0},
            "discarded": 0, "received": 0, "sent": 0,
        }
        if ssl:
            one["ssl"] = {"handshakes": 0, "handshakes_failed": 0, "session_reuses": 0}
        self.zones[name] = one
        self.load[name] = load
        self.way[name] = group
        self.size[name] = size

    def group(self, name: str, *servers: str, zone: str | None = "", method: str = "round robin",
              ) -> None:
        """Add a group. Args: zone: its zone, by default of its own name; None for none"""
        self.groups[name] = {"zone": name if zone == "" else zone, "method": method, "peers": []}
        for server in servers:
            self.peer(name, server)

    def peer(self, group: str, server: str, **values: Any) -> Json:
        """Add a peer to a group; return its conf object with its statistics."""
        peers = self.groups[group]["peers"]
        one = {
            "id": max((peer["id"] for peer in peers), default=-1) + 1, "server": server,
            "weight": 1, "max_conns": 0, "max_fails": 1, "fail_timeout": "10s", "slow_start": "0s",
            "backup": False, "down": False, "drain": False, "trouble": "", "active": 0,
            "connections": 0, "sent": 0, "received": 0, "fails": 0, "unavail": 0,
            "checks": 0, "checks_failed": 0, "latency": 4, "ends": {}, **values,
        }
        peers.append(one)
        return one

    @staticmethod
    def state(peer: Json) -> str:
        """Return the state of a peer, by the API's word."""
        if peer["down"]:
            return "down"
        return peer["trouble"] or ("draining" if peer["drain"] else "up")

    def usable(self, group: str) -> list[Json]:
        """Return the peers of a group that get new sessions."""
        if group not in self.groups:
            return []
        return [one for one in self.groups[group]["peers"] if self.state(one) == "up"]

    def advance(self, seconds: float) -> None:
        """Let traffic flow for some time."""
        self.now += seconds
        for name, load in self.load.items():
            due = self._rest.get(name, 0.0) + load(self.now) * seconds
            whole = int(due)
            self._rest[name] = due - whole
            self.flow(name, whole)

    def flow(self, name: str, count: int) -> None:
        """Let a zone have some sessions, shared by weight among the peers that are usable."""
        zone, peers = self.zones[name], self.usable(self.way[name])
        up, down = self.size[name]
        has_peer = bool(peers) or not self.way[name]
        self.accepted += count
        zone["connections"] += count
        zone["sessions"]["2xx" if has_peer else "5xx"] += count
        zone["sessions"]["total"] += count
        zone["processing"] = int(count * 0.8)
        if "ssl" in zone:
            zone["ssl"]["handshakes"] += count
            zone["ssl"]["session_reuses"] += count * 6 // 10
        if not has_peer:
            return
        zone["received"] += count * up
        zone["sent"] += count * down
        weights = sum(one["weight"] for one in peers)
        for number, one in enumerate(peers):
            key = f"{name} {number}"
            due = self._rest.get(key, 0.0) + count * one["weight"] / weights if weights else 0
            share = int(due)
            self._rest[key] = due - share
            one["connections"] += share
            one["active"] = int(share * 0.8)
            one["sent"] += share * up
            one["received"] += share * down
            one["ends"]["closed"] = one["ends"].get("closed", 0) + share

    # -- what is asked ---------------------------------------------------------------------------

    def get(self, path: str, args: dict[str, str]) -> Json:
        """Return what an endpoint says. Raises: Refusal"""
        if path in self.absent:
            raise Refusal(404, "PathNotFound", "path not found")
        if path.startswith("9/stream/upstreams/"):
            return self.conf(*self.found(path))
        named = {
            "9/nginx": self._nginx,
            "9/connections": lambda: {
                "accepted": self.accepted, "dropped": self.dropped,
                "active": sum(zone["processing"] for zone in self.zones.values()), "idle": 0,
            },
            "9/processes": lambda: {"respawned": self.respawned},
            "9/ssl": self._ssl,
            "9/resolvers": lambda: self.resolvers,
            "9/stream/server_zones": lambda: self.zones,
            "9/stream/upstreams": self._upstreams,
            "ngxstream/1": lambda: {
                "version": self.version, "write": self.write,
                "endpoints": ["sessions", "workers", "reloads", "log"],
            },
            "ngxstream/1/workers": self._workers,
            "ngxstream/1/reloads": lambda: {
                "configuration": {
                    "file": "/etc/nginx/nginx.conf", "generation": self.generation,
                    "loaded": stamp(self.loaded), "age_s": int(self.now - self.loaded),
                },
                "reloads": self.reloads,
            },
            "ngxstream/1/certificates": lambda: {"certificates": self.certificates},
            "ngxstream/1/server_zones": self._zone_ends,
            "ngxstream/1/upstreams": self._peer_ends,
        }
        if path == "ngxstream/1/log":
            least = LEVELS.index(args.get("level", "debug"))
            lines = [one for one in self.log if LEVELS.index(one["level"]) >= least
                     and args.get("contains", "") in one["text"]]
            return {"lines": lines, "lost": 0}
        if path == "ngxstream/1/sessions":
            return self._sessions(args)
        if path not in named:
            raise Refusal(404, "PathNotFound", "path not found")
        return named[path]()

    def _nginx(self) -> Json:
        return {
            "version": "1.31.5", "build": f"ngxstream-{self.version}", "address": "127.0.0.1",
            "generation": self.generation, "load_timestamp": stamp(self.loaded),
            "timestamp": stamp(self.now), "pid": self.pids[0], "ppid": self.ppid,
        }

    def _ssl(self) -> Json:
        all_ = [zone["ssl"] for zone in self.zones.values() if "ssl" in zone]
        names = ("handshakes", "handshakes_failed", "session_reuses")
        return {name: sum(one[name] for one in all_) for name in names}

    def _upstreams(self) -> Json:
        return {
            name: {
                "peers": [self._statistics(peer) for peer in group["peers"]], "zombies": 0,
                "zone": group["zone"] or "",
            }
            for name, group in self.groups.items()
        }

    def _statistics(self, peer: Json) -> Json:
        state = self.state(peer)
        one = {
            "id": peer["id"], "server": peer["server"], "name": peer["server"],
            "backup": peer["backup"], "weight": peer["weight"], "state": state,
            "active": peer["active"] if state == "up" else 0,
            "connections": peer["connections"], "connect_time": peer["latency"] // 3,
            "first_byte_time": peer["latency"], "response_time": peer["latency"] * 3,
            "sent": peer["sent"], "received": peer["received"], "fails": peer["fails"],
            "unavail": peer["unavail"], "downtime": 0, "selected": stamp(self.now)[:19] + "Z",
            "health_checks": {
                "checks": peer["checks"], "fails": peer["checks_failed"], "unhealthy": 0,
                **({"last_passed": state == "up"} if peer["checks"] else {}),
            },
        }
        if peer["max_conns"]:
            one["max_conns"] = peer["max_conns"]
        if state in ("unavail", "unhealthy", "checking"):
            one["downstart"] = stamp(self.now - 47)
            one["downtime"] = 47_000
        return one

    def _workers(self) -> Json:
        count = len(self.pids)
        sessions = sum(zone["processing"] for zone in self.zones.values())
        return {
            "silent": [],
            "master": {"pid": self.ppid, "state": "gone" if self.orphaned else "running"},
            "workers": [
                {
                    "id": number, "pid": pid, "generation": self.generation, "state": "serving",
                    "started": stamp(self.started),
                    "connections": {
                        "active": sessions // count, "idle": 3, "accepted": self.accepted // count,
                        "dropped": self.dropped,
                    },
                    "sessions": {"tcp": sessions // count // 4, "udp": sessions // count * 3 // 4},
                    "turns": int((self.now - self.started) * 310),
                    "loop_delay_ms": {"max": 11 + number, "p50": 0, "p99": 2},
                    "udp": {
                        "drains": self.accepted // 3, "datagrams": self.accepted, "gro": True,
                        "gso": True, "held": 0, "queued": 0, "evicted": 0,
                        "drops": {"queue_full": 4} if number else {},
                    },
                    "memory_bytes": 41_300_000 + number * 800_000,
                }
                for number, pid in enumerate(self.pids)
            ],
        }

    def _zone_ends(self) -> Json:
        return {
            name: {
                "ends": {
                    "closed": zone["sessions"]["2xx"] * 9 // 10,
                    "idle": zone["sessions"]["2xx"] // 10,
                    "connect_timeout": zone["sessions"]["5xx"],
                },
                "connect_ms": histogram(MS_BOUNDS, 3, zone["connections"]),
                "first_byte_ms": histogram(MS_BOUNDS, 8, zone["connections"]),
                "session_ms": histogram(MS_BOUNDS, 300, zone["connections"]),
                "datagrams": histogram(DATAGRAM_BOUNDS, 2, zone["connections"]),
            }
            for name, zone in self.zones.items()
        }

    def _peer_ends(self) -> Json:
        return {
            name: {
                "zone": group["zone"], "method": group["method"],
                "peers": [
                    {
                        "id": peer["id"], "server": peer["server"], "drain": peer["drain"],
                        "ends": peer["ends"],
                        "connect_ms": histogram(MS_BOUNDS, 3, peer["connections"]),
                        "first_byte_ms": histogram(MS_BOUNDS, peer["latency"], peer["connections"]),
                        "session_ms": histogram(MS_BOUNDS, 300, peer["connections"]),
                    }
                    for peer in group["peers"]
                ],
            }
            for name, group in self.groups.items()
        }

    def _matching(self, args: dict[str, str]) -> list[Json]:
        client = args.get("client", "")
        if "/" in client and not re.fullmatch(r"[\d.:a-f]+/\d+", client):
            raise Refusal(400, "BadArgument", 'invalid network in "client"')
        names = ("protocol", "server", "upstream")
        return [
            one for one in self.sessions
            if all(one[name] == args.get(name, one[name]) for name in names)
            and one["client"].startswith(client.split("/")[0].removesuffix(".0"))
        ]

    def _sessions(self, args: dict[str, str]) -> Json:
        found = self._matching(args)
        first, limit = int(args.get("cursor", "0")), int(args.get("limit", "100"))
        more = str(first + limit) if first + limit < len(found) else None
        for one in found:
            one["age_ms"] = int((self.now - one["began"]) * 1000)
        shown = [{k: v for k, v in one.items() if k != "began"} for one in found]
        return {
            "sessions": shown[first : first + limit], "cursor": more, "matched": len(found),
            "silent": [],
        }

    # -- what is changed -------------------------------------------------------------------------

    def found(self, path: str) -> tuple[str, Json]:
        """Return the group and the peer that a path names. Raises: Refusal"""
        _, _, _, name, _, *number = path.split("/")
        group = self.groups.get(unquote(name))
        if group is None:
            raise Refusal(404, "UpstreamNotFound", "upstream not found")
        if not number:
            return unquote(name), None
        for peer in group["peers"]:
            if str(peer["id"]) == number[0]:
                return unquote(name), peer
        raise Refusal(404, "UpstreamServerNotFound", "server not found")

    @staticmethod
    def conf(_: str, peer: Json) -> Json:
        """Return the conf object of a peer."""
        names = ("id", "server", "weight", "max_conns", "max_fails", "fail_timeout", "slow_start",
                 "backup", "down", "drain")
        return {name: peer[name] for name in names}

    def change(self, method: str, path: str, args: dict[str, str], body: Json) -> tuple[int, Json]:
        """Obey; return status and body. Raises: Refusal"""
        if not self.write:
            raise Refusal(405, "MethodDisabled", "method disabled")
        if path == "ngxstream/1/sessions":
            found = self._matching(args)
            self.sessions = [one for one in self.sessions if one not in found]
            return 200, {"ended": len(found), "silent": []}
        if path.startswith("ngxstream/1/sessions/"):
            number = unquote(path.rpartition("/")[2])
            self.sessions = [one for one in self.sessions if one["id"] != number]
            return 204, None
        name, peer = self.found(path)
        if method == "POST":
            if not re.fullmatch(r"[\d.]+:\d+|\[[\da-f:]+\]:\d+", body["server"]):
                raise Refusal(400, "UpstreamBadAddress", f'no port in server "{body["server"]}"')
            return 201, self.conf(name, self.peer(name, **body))
        if method == "DELETE":
            self.groups[name]["peers"].remove(peer)
            return 200, []
        peer.update(body)
        return 200, self.conf(name, peer)


def wave(
    middle: float, swing: float, period: float, noise: float = 0.08
) -> Callable[[float], float]:
    """Return a load that swings around a middle, the same in every run."""

    def load(now: float) -> float:
        jitter = math.sin(now * 12.9898) * 43758.5453
        jitter -= math.floor(jitter)
        return max(0.0, middle + swing * math.sin(now / period * 2 * math.pi)
                   + middle * noise * (jitter * 2 - 1))

    return load


def example(now: float = EPOCH) -> Model:
    """Return an installation that is well, for pictures and tests. Args: now: seconds"""
    model = Model()
    model.now = now
    model.loaded = now - 11_520
    model.started = now - 273_600
    model.group("dns", "10.0.0.11:53", "10.0.0.12:53", "10.0.0.13:53", method="least_conn")
    model.group("mail", "10.0.1.21:993", "10.0.1.22:993", method="hash $remote_addr consistent")
    model.group("mqtt", "10.0.2.31:1883", "10.0.2.32:1883", zone=None)
    model.groups["dns"]["peers"][0].update(weight=3, checks=5472)
    model.groups["dns"]["peers"][1].update(checks=5472, checks_failed=2, latency=7)
    model.groups["dns"]["peers"][2].update(checks=5472, latency=5)
    for peer in model.groups["mail"]["peers"]:
        peer.update(max_conns=200, latency=22)
    model.peer("mail", "10.0.1.29:993", backup=True)
    model.zone("dns", wave(420, 120, 170), "dns", (48, 132))
    model.zone("imaps", wave(14, 5, 90, 0.4), "mail", (2_300, 61_000), ssl=True)
    model.zone("mqtt", wave(3, 1, 240, 0.9), "mqtt", (900, 700))
    model.zone("127.0.0.1:8080", wave(1, 0, 60, 0.0), "", (2000, 9000))
    for number in range(137):
        is_udp = number % 4 != 0
        group = "dns" if is_udp else "mail"
        model.sessions.append({
            "id": f"{model.pids[number % 2]}-{9000 + number}", "pid": model.pids[number % 2],
            "protocol": "udp" if is_udp else "tcp",
            "client": f"192.0.2.{number % 60 + 10}:{40_000 + number * 13}",
            "listen": "0.0.0.0:53" if is_udp else "0.0.0.0:993",
            "server": "dns" if is_udp else "imaps", "upstream": group,
            "peer": model.groups[group]["peers"][number % 2]["server"], "state": "relaying",
            "began": now - 2 - number * 17 % 900, "started": stamp(now - 2 - number * 17 % 900),
            "age_ms": 0, "idle_ms": number * 37 % 3000,
            "received": number * 912 + 48, "sent": number * 3011 + 132,
            "upstream_sent": number * 912 + 48, "upstream_received": number * 3011 + 132,
            "datagrams_received": number if is_udp else None,
            "datagrams_sent": number if is_udp else None,
        })
    for ago, level, text in LINES:
        model.log.append({
            "time": stamp(now - ago), "level": level, "pid": model.pids[0],
            "connection": None if level == "notice" else 77_120 - ago, "text": text,
        })
    model.reloads = [
        {"time": stamp(now - 11_520), "verdict": "ok", "message": "", "generation": 3,
         "duration_ms": 212, "sessions_carried": 118},
        {"time": stamp(now - 12_100), "verdict": "failed", "generation": 2, "duration_ms": 31,
         "message": 'unknown directive "porxy_pass" in /etc/nginx/nginx.conf:31',
         "sessions_carried": 0},
        {"time": stamp(now - 90_000), "verdict": "ok", "message": "", "generation": 2,
         "duration_ms": 188, "sessions_carried": 96},
    ]
    model.certificates = [
        {"file": "/etc/ssl/mail.pem", "subject": "CN=mail.example.org",
         "names": ["mail.example.org", "imap.example.org"], "not_after": stamp(now + 61.5 * 86_400),
         "days_left": 61, "servers": ["0.0.0.0:993"]},
        {"file": "/etc/ssl/mqtt.pem", "subject": "CN=mqtt.example.org",
         "names": ["mqtt.example.org"], "not_after": stamp(now + 204.5 * 86_400),
         "days_left": 204, "servers": ["0.0.0.0:8883"]},
    ]
    model.resolvers = {
        "local": {
            "requests": {"name": 1410, "srv": 12, "addr": 0},
            "responses": {"noerror": 1402, "formerr": 0, "servfail": 3, "nxdomain": 14,
                          "notimp": 0, "refused": 0, "timedout": 3, "unknown": 0},
        },
    }
    return model
