"""Configurations made by chance: directives with good and bad words, and slips of the hand.

``text(seed)`` is always the same for a seed. Directives that only versions of nginx newer than
Debian's know are not among them.
"""

# ruff: noqa: E501, ISC004 - a row of the table is a line, however long

import random
from typing import Final

# Words of a directive. Several alternatives a place; ``|`` stands between those of a list below.
FLAG: Final = "on|off ! ON|yes|1|"
TIME: Final = "1s|0|5m|1m30s|1h 1m|250ms ! 1x|-1|1.5s|99999999999999999999|"
SIZE: Final = "4k|16k|1m|8192 ! 0|1g|x|-1|9223372036854775807|"
NUMBER: Final = "0|1|3|100 ! -1|x|2147483648|1.5|99999999999999999999|"
VALUE: Final = "a|$remote_addr|${remote_addr}x|\"a b\"|'$status'|$pid$pid ! $nosuch|a$|$1|a${|~x|é|"
ADDRESS: Final = "127.0.0.1|::1|10.0.0.0/8|10.1.2.3/8|2001:db8::/32|all|unix: ! nowhere|10.0.0.0/33|1.2.3|[::1]|"
PATH: Final = "logs/x|logs/y ! /no/such/x||stderr|logs"

# Context letters (M main, E events, S stream, V server, U upstream), then the words of each place: good
# ones, and behind the mark bad ones; an empty word is left out.
DIRECTIVES: Final[dict[str, tuple[str, ...]]] = {
    # main and events
    "daemon": ("M", FLAG),
    "master_process": ("M", FLAG),
    "worker_processes": ("M", "1|auto|2 ! 0|x|-1|"),
    "worker_priority": ("M", "0|5|-5|+3 ! x|"),
    "worker_rlimit_nofile": ("M", NUMBER),
    "worker_rlimit_core": ("M", SIZE),
    "worker_shutdown_timeout": ("M", TIME),
    "timer_resolution": ("M", TIME),
    "worker_cpu_affinity": ("M", "1|01|auto ! 2|", " ! 10|x"),
    "debug_points": ("M", "stop|abort ! x"),
    "env": ("M", "A|B=c ! "),
    "lock_file": ("M", PATH),
    "pcre_jit": ("M", FLAG),
    "thread_pool": ("M", "a|b", "threads=2 ! threads=0|max_queue=3|x", " ! max_queue=1"),
    "worker_connections": ("E", "512|100 ! 0|1|x|"),
    "multi_accept": ("E", FLAG),
    "accept_mutex": ("E", FLAG),
    "accept_mutex_delay": ("E", TIME),
    "use": ("E", "epoll ! kqueue|"),
    "worker_aio_requests": ("E", NUMBER),
    # both
    "preread_buffer_size": ("SV", SIZE),
    "preread_timeout": ("SV", TIME),
    "proxy_protocol_timeout": ("SV", TIME),
    "resolver": ("SV", "127.0.0.1|127.0.0.1:53|[::1] ! ipv6=off|", "|valid=5s|ipv6=off ! x=1|ipv6=x"),
    "resolver_timeout": ("SV", TIME),
    "tcp_nodelay": ("SV", FLAG),
    "proxy_timeout": ("SV", TIME),
    "proxy_connect_timeout": ("SV", TIME),
    "proxy_buffer_size": ("SV", SIZE),
    "proxy_downstream_buffer": ("SV", SIZE),
    "proxy_upload_rate": ("SV", SIZE),
    "proxy_download_rate": ("SV", "1k|$pid|0 ! $nosuch|x|"),
    "proxy_requests": ("SV", NUMBER),
    "proxy_responses": ("SV", NUMBER),
    "proxy_next_upstream": ("SV", FLAG),
    "proxy_next_upstream_tries": ("SV", NUMBER),
    "proxy_next_upstream_timeout": ("SV", TIME),
    "proxy_socket_keepalive": ("SV", FLAG),
    "proxy_half_close": ("SV", FLAG),
    "proxy_bind": ("SV", "127.0.0.1|off|$remote_addr ! 127.0.0.1:99999|nowhere|", "|transparent ! x"),
    "proxy_ssl_session_reuse": ("SV", FLAG),
    "proxy_ssl_protocols": ("SV", "TLSv1.2|TLSv1.3 ! SSLv9|", "|TLSv1.3"),
    "proxy_ssl_name": ("SV", VALUE),
    "proxy_ssl_server_name": ("SV", FLAG),
    "proxy_ssl_verify_depth": ("SV", NUMBER),
    "allow": ("SV", ADDRESS),
    "deny": ("SV", ADDRESS),
    "set_real_ip_from": ("SV", "127.0.0.1|10.0.0.0/8|10.1.2.3/8|2001:db8::/32|unix: ! 10.0.0.0/33|"),
    "limit_conn": ("SV", "z|z ! y|", "1|65535 ! 0|x|65536"),
    "limit_conn_log_level": ("SV", "info|warn ! debug|"),
    "limit_conn_dry_run": ("SV", FLAG),
    "access_log": ("SV", "off ! logs/a|x|"),
    "error_log": ("SV", PATH, "|info|notice ! bogus"),
    "open_log_file_cache": ("SV", "max=10|off ! max=x|inactive=1s", " ! inactive=5s|valid=x"),
    "ssl_handshake_timeout": ("SV", TIME),
    "ssl_protocols": ("SV", "TLSv1.2|TLSv1.3 ! SSLv9|", "|TLSv1.3"),
    "ssl_prefer_server_ciphers": ("SV", FLAG),
    "ssl_session_cache": ("SV", "off|none|shared:a:1m ! builtin|shared:a:1|shared::1m|x"),
    "ssl_session_timeout": ("SV", TIME),
    "ssl_session_tickets": ("SV", FLAG),
    "ssl_verify_client": ("SV", "off ! on|optional|optional_no_ca|x"),
    "ssl_verify_depth": ("SV", NUMBER),
    "ssl_preread": ("SV", FLAG),
    # stream
    "log_format": ("S", "f|g|h ! combined", "$remote_addr|'a' ! escape=json|escape=x|$nosuch", "|a"),
    "limit_conn_zone": ("S", VALUE, "zone=z:32k|zone=y:1m ! zone=z:1k|zone=z|x|zone=:1m"),
    # server
    "listen": (
        "V",
        "127.0.0.1:@|127.0.0.1:@|127.0.0.2:@|[::1]:@|*:@|@|unix:logs/@|localhost:@ ! "
        "127.0.0.1:0|127.0.0.1:70000|127.0.0.1|127.0.0.1:x|",
        "|||udp|bind|reuseport|proxy_protocol|backlog=5|so_keepalive=on|rcvbuf=8k|"
        "fastopen=3|so_keepalive=1:2 ! ssl|x|ipv6only=on",
        " ! reuseport|udp|deferred|backlog=x",
    ),
    "proxy_pass": (
        "V",
        "127.0.0.1:@|u|u|$remote_addr:1|unix:logs/s|[::1]:@ ! w|127.0.0.1|127.0.0.1:x|$nosuch|",
    ),
    "return": ("V", VALUE, " ! b"),
    "set": ("V", "$v|$w ! v|$remote_addr|$pid", VALUE),
    # upstream
    "hash": ("U", VALUE, "|consistent ! ketama"),
    "least_conn": ("U", " ! x"),
    "random": ("U", "|two ! x", " ! least_conn|x"),
    "zone": ("U", "z1|z2 ! ", "64k|32k ! 1k|x|"),
    "server": (
        "U",
        "127.0.0.1:@|127.0.0.1:@|[::1]:@|unix:logs/b ! 127.0.0.1|127.0.0.1:x|nosuch.invalid:1|",
        "|||weight=3|down|max_fails=0|fail_timeout=5s|max_conns=3 ! backup|weight=0|x|weight=|slowstart=1s",
        "||weight=2 ! backup|down",
    ),
}
BLOCKS: Final = ("map", "geo", "split_clients")
ITEMS: Final[dict[str, tuple[str, ...]]] = {
    "map": (
        "a|b|c|default|~^b|~*c|hostnames|volatile|*.a.test|.b.test ! ~(|\"\"|include|é|\\default|a",
        "1|2|$pid|'x y' ! $nosuch|",
    ),
    "geo": (
        "10.0.0.0/8|default|2001:db8::/32|127.0.0.1|10.0.0.1/8|proxy ! "
        "ranges|10.0.0.0-10.0.0.9|delete|x|proxy_recursive",
        "1|2|3 ! $pid||10.0.0.0/8",
    ),
    "split_clients": ("1%|0.5%|2% ! *|50%|100%|0%|x%|101%|33.333%", "a|b ! $pid|"),
}

SLIPS: Final = (";", "{", "}", '"', "'", "#", "\\", "$", " ", "\n", "\t", "\r", "é", "\x01", "${", "~", "")


class Maker:
    """One configuration being made."""

    def __init__(self, seed: int) -> None:
        """Begin. Args: seed: tells one configuration from another."""
        self.dice = random.Random(seed)
        self.port = 0
        # most configurations are nearly right: else the first word would be all that is judged
        self.risk = self.dice.choice((0.0, 0.01, 0.03, 0.2))

    def word(self, choices: str) -> str:
        """Choose a word of a place. Args: choices: good ones, then ``!`` and bad ones."""
        good, _, bad = choices.partition(" ! ")
        if bad and self.dice.random() < self.risk:
            good = bad
        word = self.dice.choice(good.strip(" ").split("|") if good != " " else [""])
        if "@" in word:
            self.port += 1
            word = word.replace("@", str(7000 + (self.port if self.dice.random() < 0.8 else 1)))
        return word

    def statement(self, name: str) -> str:
        """Make one directive."""
        _, *places = DIRECTIVES[name]
        words = [word for place in places if (word := self.word(place)) or self.dice.random() < 0.01]
        words = [word or '""' for word in words]
        if self.dice.random() < self.risk / 4:
            words.append("x")
        return " ".join([name, *words]) + ";"

    def some(self, context: str, most: int) -> list[str]:
        """Make some directives of a context."""
        names = [name for name, (where, *_) in DIRECTIVES.items() if context in where]
        if self.dice.random() < self.risk / 2:
            names = list(DIRECTIVES)
        count = self.dice.randint(0, most)
        chosen = self.dice.sample(names, count)
        if self.dice.random() < self.risk:
            chosen += chosen[:1]
        return [self.statement(name) for name in chosen]

    def block(self, name: str) -> str:
        """Make a map, geo or split_clients."""
        source = "" if name == "geo" and self.dice.random() < 0.5 else self.word(VALUE)
        items = []
        for _ in range(self.dice.randint(0, 4)):
            words = [self.word(place) for place in ITEMS[name]]
            items.append(" ".join(word or '""' for word in words) + ";")
        target = self.word("$m1|$m2|$m3 ! m|$remote_addr")
        return f"{name} {source} {target} {{ {' '.join(items)} }}"

    def upstream(self, name: str) -> str:
        """Make an upstream block."""
        servers = [self.statement("server") for _ in range(self.dice.randint(1, 3))]
        inside = self.some("U", 2) + servers
        if self.dice.random() < self.risk:
            self.dice.shuffle(inside)
        return f"upstream {name} {{ {' '.join(inside)} }}"

    def server(self) -> str:
        """Make a server block."""
        inside = [self.statement("listen") for _ in range(self.dice.choice((1, 1, 1, 2)))]
        inside += self.some("V", 4)
        inside.append(self.statement(self.dice.choice(("proxy_pass", "return"))))
        if self.dice.random() < self.risk:
            self.dice.shuffle(inside)
        return f"server {{ {' '.join(inside)} }}"

    def whole(self) -> str:
        """Make all of it."""
        dice = self.dice
        stream = self.some("S", 4)
        if dice.random() < 0.5:
            stream.append("log_format f '$remote_addr';")
        stream += [self.block(dice.choice(BLOCKS)) for _ in range(dice.randint(0, 2))]
        stream.append(self.upstream("u"))
        stream += [self.server() for _ in range(dice.randint(1, 3))]
        if dice.random() < 0.3:
            stream.append(self.upstream(dice.choice(("w", "u", "127.0.0.1:7001"))))
        main = self.some("M", 2)
        text = f"{' '.join(main)} events {{ {' '.join(self.some('E', 1))} }}\n"
        text += "stream {\n" + "\n".join(stream) + "\n}\n"
        if dice.random() < self.risk * 2:
            text = self.slipped(text)
        return text

    def slipped(self, text: str) -> str:
        """Change one place of a text, as a slip of the hand would."""
        at = self.dice.randrange(len(text))
        length = self.dice.choice((0, 0, 1, 1, 5))
        return text[:at] + self.dice.choice(SLIPS) + text[at + length :]


def text(seed: int) -> str:
    """Return the configuration of a seed."""
    return Maker(seed).whole()
