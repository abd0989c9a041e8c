"""What each directive of nginx's stream refuses: a bad use, and the words it is refused with.

``REFUSALS`` maps a directive to its cases. tests/differential/test_refusals.py has both programs
judge them; tests/directives.py counts them as the refusal tests of their directives.
"""

from typing import Final, NamedTuple

from ngxstream.modules.py import refused

# Where the text of a case goes. All is one line: a message ends in ``:1``.
PLACES: Final = {
    "main": "TEXT events {}",
    "after": "events {} stream {} TEXT",
    "events": "events { TEXT }",
    "stream": "events {} stream { TEXT server { listen 127.0.0.1:9; return x; } }",
    "server": "events {} stream { server { listen 127.0.0.1:9; TEXT return x; } }",
    "other": "events {} stream { server { listen 127.0.0.1:9; return x; } "
    "server { TEXT return x; } }",
    "upstream": "events {} stream { upstream u { TEXT server 127.0.0.1:9; } "
    "server { listen 127.0.0.1:9; proxy_pass u; } }",
    "last": "events {} stream { upstream u { server 127.0.0.1:9; TEXT } "
    "server { listen 127.0.0.1:9; proxy_pass u; } }",
}


class Case(NamedTuple):
    """One bad use. ours: nginx 1.22 has other words, or none; `words` are those of 1.31 or ours."""

    place: str
    text: str
    words: str
    ours: bool = False

    def conf(self) -> str:
        """Return the whole configuration."""
        return PLACES[self.place].replace("TEXT", self.text)


def _flag(name: str, place: str) -> Case:
    words = f'invalid value "maybe" in "{name}" directive, it must be "on" or "off"'
    return Case(place, f"{name} maybe;", words)


def _value(name: str, place: str) -> Case:
    return Case(place, f"{name} 1z;", f'"{name}" directive invalid value')


def _number(name: str, place: str) -> Case:
    return Case(place, f"{name} x;", f'"{name}" directive invalid number')


def _enum(name: str, place: str) -> Case:
    return Case(place, f"{name} maybe;", 'invalid value "maybe"')


def _duplicate(name: str, place: str) -> Case:
    return Case(place, f"{name} a; {name} b;", f'"{name}" directive is duplicate')


def _empty(name: str, place: str) -> Case:
    return Case(place, f"{name};", f'invalid number of arguments in "{name}" directive')


_KINDS: Final = {
    ("flag", "main"): "daemon master_process pcre_jit ssl_object_cache_inheritable",
    ("value", "main"): "timer_resolution worker_rlimit_core worker_shutdown_timeout",
    ("number", "main"): "worker_priority worker_rlimit_nofile",
    ("enum", "main"): "debug_points",
    ("duplicate", "main"): "lock_file pid working_directory",
    ("empty", "main"): "env",
    ("flag", "events"): "accept_mutex multi_accept",
    ("value", "events"): "accept_mutex_delay",
    ("number", "events"): "epoll_events worker_aio_requests",
    ("number", "stream"): "map_hash_bucket_size map_hash_max_size server_names_hash_bucket_size "
    "server_names_hash_max_size variables_hash_bucket_size variables_hash_max_size",
    ("flag", "server"): "limit_conn_dry_run proxy_half_close proxy_next_upstream "
    "proxy_socket_keepalive proxy_ssl proxy_ssl_server_name proxy_ssl_session_reuse "
    "proxy_ssl_verify ssl_certificate_compression ssl_prefer_server_ciphers ssl_preread "
    "ssl_reject_handshake ssl_session_tickets ssl_stapling ssl_stapling_verify tcp_nodelay",
    ("value", "server"): "preread_buffer_size preread_timeout proxy_buffer_size "
    "proxy_connect_timeout proxy_download_rate proxy_downstream_buffer "
    "proxy_next_upstream_timeout proxy_protocol_timeout proxy_socket_rcvbuf proxy_socket_sndbuf "
    "proxy_timeout proxy_upload_rate proxy_upstream_buffer resolver_timeout ssl_handshake_timeout "
    "ssl_session_timeout",
    ("number", "server"): "proxy_next_upstream_tries proxy_requests proxy_responses "
    "proxy_ssl_verify_depth ssl_verify_depth",
    ("enum", "server"): "limit_conn_log_level proxy_ssl_protocols ssl_ocsp "
    "ssl_protocols ssl_verify_client",
    ("duplicate", "server"): "proxy_ssl_crl proxy_ssl_name proxy_ssl_trusted_certificate "
    "proxy_ssl_certificate proxy_ssl_certificate_key proxy_ssl_ciphers ssl_ciphers "
    "ssl_client_certificate ssl_crl ssl_dhparam ssl_ecdh_curve ssl_ocsp_responder "
    "ssl_stapling_file ssl_stapling_responder ssl_trusted_certificate",
    ("empty", "server"): "ssl_certificate ssl_certificate_key ssl_ech_file ssl_session_ticket_key",
}
_MAKERS: Final = {
    "flag": _flag,
    "value": _value,
    "number": _number,
    "enum": _enum,
    "duplicate": _duplicate,
    "empty": _empty,
}

_ODD: Final = {
    # main and events
    "debug_connection": [
        Case("events", "debug_connection 1.2.3.4/99;",
             'host not found in debug_connection "1.2.3.4/99"'),
    ],
    "error_log": [
        Case("main", "error_log logs/x bogus;", 'invalid log level "bogus"'),
        Case("server", "error_log logs/x bogus;", 'invalid log level "bogus"'),
        Case("main", "error_log logs/x info warn;", 'duplicate log level "warn"'),
        Case("main", "error_log syslog:tag=a;", "no syslog server specified"),
        Case("main", "error_log syslog:server=127.0.0.1,facility=x;",
             'unknown syslog facility "x"'),
    ],
    "events": [
        Case("after", "events {}", '"events" directive is duplicate'),
        Case("main", "daemon {", 'directive "daemon" is not terminated by ";"'),
    ],
    "http": [
        Case("after", "http;", 'directive "http" has no opening "{"'),
        Case("after", "http x {}", 'invalid number of arguments in "http" directive'),
        Case("after", "http {} http {}", '"http" directive is duplicate'),
        Case("stream", "http {}", '"http" directive is not allowed here'),
    ],
    "include": [
        Case("main", "include;", 'invalid number of arguments in "include" directive'),
        Case("events", "include a b;", 'invalid number of arguments in "include" directive'),
        Case("stream", "include;", 'invalid number of arguments in "include" directive'),
        Case("server", "include {a,b}.conf;", 'directive "include" is not terminated by ";"'),
        Case("upstream", "include a b;", 'invalid number of arguments in "include" directive'),
        Case("server", "include nosuch;",
             'open() "/p/conf/nosuch" failed (2: No such file or directory)'),
    ],
    "load_module": [
        Case("after", "load_module x.so;", '"load_module" directive is specified too late'),
        Case("main", "http {} load_module x.so;",
             '"load_module" directive is specified too late'),
    ],
    "mail": [
        Case("after", "mail;", 'directive "mail" has no opening "{"', ours=True),
        Case("after", "mail {} mail {}", '"mail" directive is duplicate', ours=True),
    ],
    "ssl_engine": [
        Case("main", "ssl_engine x;", '"ssl_engine" directive is not supported: '
             "OpenSSL engines cannot be reached from Python", ours=True),
    ],
    "stream": [
        Case("after", "stream {}", '"stream" directive is duplicate'),
        Case("main", "stream;", 'directive "stream" has no opening "{"'),
    ],
    "thread_pool": [
        Case("main", "thread_pool a max_queue=3;", '"thread_pool" must have "threads" parameter'),
        Case("main", "thread_pool a threads=0;", 'invalid threads value "threads=0"'),
    ],
    "use": [Case("events", "use kqueue;", 'invalid event type "kqueue"')],
    "user": [Case("main", "user nosuch;", 'getpwnam("nosuch") failed')],
    "worker_connections": [Case("events", "worker_connections x;", 'invalid number "x"')],
    "worker_cpu_affinity": [
        Case("main", "worker_cpu_affinity 12;", 'invalid character "2" in "worker_cpu_affinity"'),
    ],
    "worker_processes": [
        Case("main", "worker_processes x;", '"worker_processes" directive invalid value'),
    ],
    # core
    "listen": [
        Case("server", "listen 127.0.0.1:8 backlog=0;", 'invalid backlog "backlog=0"'),
        Case("server", "listen 127.0.0.1:8 rcvbuf=x;", 'invalid rcvbuf "rcvbuf=x"'),
        Case("server", "listen 127.0.0.1:8 sndbuf=x;", 'invalid sndbuf "sndbuf=x"'),
        Case("server", "listen 127.0.0.1:8 fastopen=x;", 'invalid fastopen "fastopen=x"'),
        Case("server", "listen [::1]:8 ipv6only=of;", 'invalid ipv6only flags "of"'),
        Case("server", "listen 127.0.0.1:8 so_keepalive=0::;",
             'invalid so_keepalive value: "0::"'),
        Case("server", "listen 127.0.0.1:8 setfib=1;", 'invalid parameter "setfib=1"',
             ours=True),
        Case("server", "listen 127.0.0.1:8 slow;", 'invalid parameter "slow"', ours=True),
        Case("server", "listen 127.0.0.1:8 udp backlog=5;",
             '"listen" directive "backlog" parameter is incompatible with "udp"'),
        Case("server", "listen 127.0.0.1:8 udp fastopen=5;",
             '"listen" directive "fastopen" parameter is incompatible with "udp"', ours=True),
        Case("server", "listen 127.0.0.1:8 udp so_keepalive=on;",
             '"listen" directive "so_keepalive" parameter is incompatible with "udp"'),
        Case("server", "listen 127.0.0.1:8 udp ssl;",
             '"listen" directive "ssl" parameter is incompatible with "udp"', ours=True),
        Case("server", "listen 127.0.0.1:9;", "a duplicate listen 127.0.0.1:9", ours=True),
        Case("server", "listen 127.0.0.1:65536;",
             'invalid port in "127.0.0.1:65536" of the "listen" directive'),
        Case("server", "listen 127.0.0.1:9-8;",
             'invalid port range in "127.0.0.1:9-8" of the "listen" directive'),
        Case("server", "listen unix:;",
             'no path in the unix domain socket in "unix:" of the "listen" directive'),
        Case("other", "listen 127.0.0.1:8 default_server; listen 127.0.0.1:8;",
             "a duplicate listen 127.0.0.1:8", ours=True),
    ],
    "resolver": [
        Case("server", "resolver 127.0.0.1 valid=x;", "invalid parameter: valid=x"),
        Case("server", "resolver 127.0.0.1 ipv6=x;", "invalid parameter: ipv6=x"),
        Case("server", "resolver ipv6=off;", "no name servers defined"),
        Case("server", "resolver 127.0.0.1:x;", 'invalid port in resolver "127.0.0.1:x"'),
        Case("server", "resolver 127.0.0.1 ipv4=off ipv6=off;",
             '"ipv4" and "ipv6" cannot both be "off"', ours=True),
    ],
    "upstream/resolver": [
        Case("upstream", "resolver 127.0.0.1 valid=x;", "invalid parameter: valid=x", ours=True),
    ],
    "upstream/resolver_timeout": [
        Case("upstream", "resolver_timeout 1z;", '"resolver_timeout" directive invalid value',
             ours=True),
    ],
    "server": [
        Case("stream", "server { return x; }",
             'no "listen" is defined for server in /p/conf/nginx.conf:1'),
        Case("stream", "server a { listen 8; }",
             'invalid number of arguments in "server" directive'),
    ],
    "server_name": [
        Case("server", "server_name;", 'invalid number of arguments in "server_name" directive',
             ours=True),
        Case("server", "server_name ~;", 'empty regex in server name "~"', ours=True),
        Case("server", "server_name .;", 'server name "." is invalid', ours=True),
    ],
    # proxy
    "proxy_bind": [
        Case("server", "proxy_bind nowhere;", 'invalid address "nowhere"'),
        Case("server", "proxy_bind 127.0.0.1 opaque;", 'invalid parameter "opaque"'),
    ],
    "proxy_pass": [
        Case("server", "proxy_pass 127.0.0.1;", 'no port in upstream "127.0.0.1"'),
        Case("server", "proxy_pass 127.0.0.1:0x;", 'invalid port in upstream "127.0.0.1:0x"'),
        Case("server", "proxy_pass nosuch.invalid:1;",
             'host not found in upstream "nosuch.invalid"'),
        Case("server", "proxy_pass 127.0.0.1:1; proxy_pass 127.0.0.1:2;",
             '"proxy_pass" directive is duplicate'),
        Case("server", "proxy_pass $nosuch;", 'unknown "nosuch" variable'),
    ],
    "proxy_protocol": [
        Case("server", "proxy_protocol v3;", 'invalid value "v3"', ours=True),
    ],
    "proxy_ssl_alpn": [
        Case("server", f"proxy_ssl_alpn {'a' * 256};",
             '"proxy_ssl_alpn" directive protocol too long', ours=True),
    ],
    "proxy_ssl_certificate_cache": [
        Case("server", "proxy_ssl_certificate_cache inactive=1s;",
             '"proxy_ssl_certificate_cache" must have the "max" parameter', ours=True),
    ],
    "proxy_ssl_conf_command": [
        Case("server", "proxy_ssl_conf_command a;",
             'invalid number of arguments in "proxy_ssl_conf_command" directive'),
    ],
    "proxy_ssl_password_file": [
        Case("server", "proxy_ssl_password_file /nonexistent;",
             'open() "/nonexistent" failed (2: No such file or directory)'),
    ],
    # upstream
    "upstream": [
        Case("stream", "upstream a { }", "no servers are inside upstream"),
        Case("stream", "upstream a { server 127.0.0.1:1; } upstream A { server 127.0.0.1:1; }",
             'duplicate upstream "A"'),
        Case("stream", "upstream a { server 127.0.0.1:1 backup; }",
             'no servers in upstream "a" in /p/conf/nginx.conf:1'),
    ],
    "upstream/server": [
        Case("upstream", "server 127.0.0.1;", 'no port in upstream "127.0.0.1"'),
        Case("upstream", "server 127.0.0.1:1 weight=0;", 'invalid parameter "weight=0"'),
        Case("upstream", "server 127.0.0.1:1 max_conns=x;", 'invalid parameter "max_conns=x"'),
        Case("upstream", "server 127.0.0.1:1 max_fails=x;", 'invalid parameter "max_fails=x"'),
        Case("upstream", "server 127.0.0.1:1 fail_timeout=x;",
             'invalid parameter "fail_timeout=x"'),
        Case("upstream", "server 127.0.0.1:1 slow_start=x;",
             'invalid parameter "slow_start=x"'),
        Case("upstream", "server a.example:1 resolve;",
             'resolving names at run time requires upstream "u" in /p/conf/nginx.conf:1 to be in '
             "shared memory", ours=True),
        Case("upstream", "zone z 64k; server a.example:1 resolve;",
             'no resolver defined to resolve names at run time in upstream "u" in '
             "/p/conf/nginx.conf:1", ours=True),
        Case("upstream", "server a.example service=x;",
             'service upstream "a.example" requires "resolve" parameter', ours=True),
        Case("upstream", "server a.example:1 service=x resolve;",
             'service upstream "a.example:1" may not have port', ours=True),
        Case("upstream", "server a.example service= resolve;", "service is empty", ours=True),
    ],
    "zone": [
        Case("upstream", "zone z 1k;", 'zone "z" is too small'),
        Case("upstream", "zone z many;", 'invalid zone size "many"'),
        Case("upstream", "zone z;", 'zero size shared memory zone "z"'),
        Case("upstream", 'zone "";', 'invalid zone name ""'),
    ],
    "hash": [
        Case("upstream", "hash $pid ketama;", 'invalid parameter "ketama"'),
        Case("upstream", "hash $pid; server 127.0.0.1:1 backup;",
             'balancing method does not support parameter "backup"'),
    ],
    "least_conn": [
        Case("upstream", "least_conn x;", 'invalid number of arguments in "least_conn" directive'),
    ],
    "least_time": [
        Case("upstream", "least_time soon;", 'invalid value "soon"', ours=True),
        Case("upstream", "least_time connect soon;", 'invalid parameter "soon"', ours=True),
    ],
    "random": [
        Case("upstream", "random three;", 'invalid parameter "three"'),
        Case("upstream", "random two least_time=connect;",
             'invalid parameter "least_time=connect"'),
        Case("upstream", "random; server 127.0.0.1:1 backup;",
             'balancing method does not support parameter "backup"'),
    ],
    # the other modules
    "access_log": [
        Case("server", "access_log logs/a;", "log format is not specified"),
        Case("server", "access_log logs/a nosuch;", 'unknown log format "nosuch"'),
        Case("server", "access_log off x;", 'invalid parameter "x"'),
    ],
    "log_format": [
        Case("stream", "log_format f escape=x a;", 'unknown log format escaping "x"'),
        Case("stream", "log_format f a; log_format f b;", 'duplicate "log_format" name "f"'),
        Case("stream", "log_format f $nosuch;", 'unknown "nosuch" variable'),
    ],
    "open_log_file_cache": [
        Case("server", "open_log_file_cache inactive=1s;",
             '"open_log_file_cache" must have "max" parameter'),
        Case("server", "open_log_file_cache max=x;",
             'invalid "open_log_file_cache" parameter "max=x"'),
    ],
    "allow": [Case("server", "allow nowhere;", 'invalid parameter "nowhere"')],
    "deny": [Case("server", "deny 10.0.0.0/33;", 'invalid parameter "10.0.0.0/33"')],
    "set_real_ip_from": [
        Case("server", "set_real_ip_from nosuch.invalid;",
             'host not found in set_real_ip_from "nosuch.invalid"'),
    ],
    "limit_conn_zone": [
        Case("stream", "limit_conn_zone $pid z:64k;", 'invalid parameter "z:64k"'),
        Case("stream", "limit_conn_zone $pid zone=z:1k;", 'zone "zone=z:1k" is too small'),
    ],
    "limit_conn": [
        Case("server", "limit_conn z 0;", 'invalid number of connections "0"'),
        Case("server", "limit_conn z 65536;", "connection limit must be less 65536"),
        Case("server", "limit_conn z 1; limit_conn z 2;", '"limit_conn" directive is duplicate'),
    ],
    "map": [
        Case("stream", "map $pid x { a 1; }", 'invalid variable name "x"'),
        Case("stream", "map $pid $x { a; }", "invalid number of the map parameters"),
        Case("stream", "map $pid $x { default 1; default 2; }",
             "duplicate default map parameter"),
        Case("stream", "map $pid $x { a 1; A 2; }", 'conflicting parameter "a"'),
        Case("stream", "map $pid $x { hostnames; *.*.b 1; }",
             'invalid hostname or wildcard "*.*.b"'),
    ],
    "geo": [
        Case("stream", "geo $x { nowhere a; }", 'invalid network "nowhere"'),
        Case("stream", "geo $x { proxy 10.0.0.0/8; }", 'invalid network "proxy"'),
        Case("stream", "geo $x { ranges; 1.2.3.4 a; }", 'invalid range "1.2.3.4"'),
    ],
    "geoip_city": [
        Case("stream", "geoip_city /nonexistent;", 'GeoIP_open("/nonexistent") failed', ours=True),
    ],
    "geoip_country": [
        Case("stream", "geoip_country /nonexistent;",
             'GeoIP_open("/nonexistent") failed', ours=True),
    ],
    "geoip_org": [
        Case("stream", "geoip_org /nonexistent;", 'GeoIP_open("/nonexistent") failed', ours=True),
    ],
    "split_clients": [
        Case("stream", "split_clients $pid $x { 60% a; 50% b; }",
             "percent total is greater than 100%"),
        Case("stream", "split_clients $pid $x { many% a; }", 'invalid percent value "many%"'),
    ],
    "set": [
        Case("server", "set x 1;", 'invalid variable name "x"'),
        Case("server", "set $pid 1;", 'the duplicate "pid" variable'),
        Case("server", "set $x ${;", 'invalid variable name'),
    ],
    "return": [
        Case("server", "return a b;", 'invalid number of arguments in "return" directive'),
        Case("server", "return a;", '"return" directive is duplicate'),
        Case("server", "return ${a;", 'the closing bracket in "a" variable is missing'),
    ],
    "pass": [
        Case("server", "pass 127.0.0.1;", '"pass" directive has no port', ours=True),
        Case("server", "pass 127.0.0.1:x;",
             'invalid port in "127.0.0.1:x" of the "pass" directive', ours=True),
    ],
    # TLS
    "ssl_alpn": [
        Case("server", f"ssl_alpn {'a' * 256};", '"ssl_alpn" directive protocol too long'),
    ],
    "ssl_certificate_cache": [
        Case("server", "ssl_certificate_cache inactive=1s;",
             '"ssl_certificate_cache" must have the "max" parameter', ours=True),
    ],
    "ssl_conf_command": [
        Case("server", "ssl_conf_command a;",
             'invalid number of arguments in "ssl_conf_command" directive'),
    ],
    "ssl_ocsp_cache": [
        Case("server", "ssl_ocsp_cache private;", 'invalid OCSP cache "private"', ours=True),
    ],
    "ssl_password_file": [
        Case("server", "ssl_password_file /nonexistent;",
             'open() "/nonexistent" failed (2: No such file or directory)'),
    ],
    "ssl_session_cache": [
        Case("server", "ssl_session_cache private;", 'invalid session cache "private"'),
        Case("server", "ssl_session_cache shared:s:1k;",
             'session cache "shared:s:1k" is too small'),
    ],
}


def _all() -> dict[str, list[Case]]:
    found = {
        name: [_MAKERS[kind](name, place)]
        for (kind, place), names in _KINDS.items()
        for name in names.split()
    }
    for name, why in refused.REASONS.items():
        words = f'"{name}" directive is not supported: {why}'
        found[name] = [Case("stream", f"{name} x;", words, ours=True)]
    return {**found, **_ODD}


REFUSALS: Final = _all()
