"""What nginx -t says of variables, names and the directives about them, word for word."""

from pathlib import Path

import pytest

from tests.support import in_process, proxies


def nginx_says(text: str, folder: Path) -> list[str]:
    """Return the messages of nginx -t without the name of the program and the folder."""
    nginx = proxies.Nginx("events {} " + text, folder)
    said = nginx.test().stderr.splitlines()
    place = f"{nginx.prefix}/conf/nginx.conf"
    messages = [line.removeprefix("nginx: ").replace(place, in_process.CONF) for line in said]
    return [m for m in messages if m.startswith("[") and "[notice]" not in m]


def we_say(text: str) -> list[str]:
    """Return the messages of this program in the same form."""
    built = in_process.build(text)
    return [*built.warnings, *([f"[emerg] {built.error}"] if built.error else [])]


VALUES = [
    "plain", "", "$", "a$", "${", "${}", "${remote_addr", "${remote_addr}", "${remote-addr}",
    "$remote_addr$", "$-", "$ ", "$$", "$$remote_addr", "${$remote_addr}", "$remote_addr.x",
    "$REMOTE_ADDR", "$nosuch", "${nosuch}x", "$0", "$1", "$9", "$10", "${1}", "${10}", "$01",
    "$remote_addr}", "{$remote_addr}", "$é", "${remote_addr }", "a${b", "$_", "${_}", "$upstream_",
    "$proxy_protocol_",
    "$limit_conn_status", "$arg_x", "${a}${b}", "$1$x", "$x$1", "}", "a}b", "${remote_addr}}",
    "$binary_remote_addr", "$bytes_sent", "$ssl_preread_server_name", "$realip_remote_port",
]


@pytest.mark.parametrize("value", VALUES)
def test_a_value_is_judged_as_by_nginx(value: str, tmp_path: Path) -> None:
    """A text with variables is accepted, or refused in the same words."""
    text = f'stream {{ server {{ listen 127.0.0.1:9;\n return "{value}"; }} }}'
    assert nginx_says(text, tmp_path) == we_say(text)


BLOCKS = {
    "set without a dollar": 'set x 1;',
    "set of nothing": 'set $ 1;',
    "set of an empty word": 'set "" 1;',
    "set of a core variable": 'set $Remote_Addr 1;',
    "set of an upstream variable": 'set $upstream_addr 1;',
    "set of a preread variable": 'set $ssl_preread_protocol 1;',
    "set of a realip variable": 'set $realip_remote_addr 1;',
    "set to a malformed value": 'set $x "${";',
    "set to an unknown variable": 'set $x $nosuch;',
    "set twice": 'set $x 1; set $x 2;',
    "set in terms of itself": 'set $x $x;',
    "set with one argument": 'set $x;',
    "set of a braced name": 'set ${x} 1;',
    "set of an odd name": 'set $a-b 1;',
    "two returns": "return 1;",
    "an empty return": 'return "";',
    "a malformed return after a good one": 'return "$";',
    "trust in an address": "set_real_ip_from 10.0.0.1;",
    "trust in a network": "set_real_ip_from 10.0.0.0/8;",
    "trust in a network with low bits": "set_real_ip_from 10.0.0.1/8;",
    "trust in an IPv6 network with low bits": "set_real_ip_from 2001:db8::1/32;",
    "trust in unix": "set_real_ip_from unix:;",
    "trust in an impossible prefix": "set_real_ip_from 10.0.0.0/33;",
    "trust in an empty word": 'set_real_ip_from "";',
    "trust in an odd host": "set_real_ip_from no.such.host.invalid;",
    "trust in two": "set_real_ip_from 10.0.0.1 10.0.0.2;",
    "preread on": "ssl_preread on;",
    "preread maybe": "ssl_preread maybe;",
    "preread twice": "ssl_preread on; ssl_preread off;",
    "a small buffer": "preread_buffer_size 1;",
    "an odd buffer": "preread_buffer_size 1g;",
    "an odd timeout": "preread_timeout 1y;",
    "an odd header timeout": "proxy_protocol_timeout x;",
    "a resolver": "resolver 127.0.0.1;",
    "a resolver with all options": "resolver 127.0.0.1:5353 [::1] valid=1m ipv6=off;",
    "a resolver without servers": "resolver valid=1s;",
    "a resolver with an odd time": "resolver 127.0.0.1 valid=x;",
    "a resolver with an odd flag": "resolver 127.0.0.1 ipv6=maybe;",
    "a resolver with an odd port": "resolver 127.0.0.1:99999;",
    "a resolver with an empty host": "resolver :53;",
    "a resolver with a bad IPv6 address": "resolver [::1;",
    "two resolvers": "resolver 127.0.0.1; resolver 127.0.0.2;",
    "two resolvers, the second odd": "resolver 127.0.0.1; resolver :53;",
    "a resolver and a timeout": "resolver 127.0.0.1; resolver_timeout 1s; resolver_timeout 2s;",
}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_directive_is_judged_as_by_nginx(name: str, tmp_path: Path) -> None:
    """A directive is accepted, warned of, or refused in the same words."""
    text = f"stream {{ server {{ listen 127.0.0.1:9;\n return $protocol;\n {BLOCKS[name]} }} }}"
    assert nginx_says(text, tmp_path) == we_say(text)


AROUND = {
    "a map of a core variable": "map a $remote_addr { default 1; }",
    "a map of an upstream variable": "map a $upstream_addr { default 1; }",
    "a map without a dollar": "map a b { default 1; }",
    "a map of nothing": "map a $ { default 1; }",
    "a map of a malformed value": "map ${ $x { default 1; }",
    "a map to a malformed value": 'map a $x { default "$"; }',
    "two maps of one variable": "map a $x { default 1; } map b $x { default 2; }",
    "a map of itself": "map $x $x { default 1; }",
    "a map of an unknown variable, unused": "map $nosuch $x { default 1; }",
    "a map to an unknown variable, unused": "map a $x { default $nosuch; }",
    "a named capture over a core variable": "map a $x { ~(?<remote_addr>a) 1; }",
    "a named capture": "map a $x { ~(?<y>a) $y; }",
    "a named capture over a map": "map a $y { default 1; } map a $x { ~(?<y>a) $y; }",
    "a variable of a capture nobody uses": "map a $x { ~(?<y>a) 1; } map a $z { default $y; }",
}


@pytest.mark.parametrize("name", AROUND)
def test_a_definition_is_judged_as_by_nginx(name: str, tmp_path: Path) -> None:
    """A definition of a variable is accepted, or refused in the same words."""
    text = f"stream {{ {AROUND[name]}\n server {{ listen 127.0.0.1:9;\n return 1; }} }}"
    assert nginx_says(text, tmp_path) == we_say(text)
