"""map, geo, split_clients and access decide as nginx does, over many keys and addresses.

A value is given to a variable by a map of nothing with that default; one ``return`` prints the
answers for hundreds of values, so that each program is asked once.
"""

import random
from pathlib import Path

import pytest

from tests.support import in_process, proxies, verdicts
from tests.support.clients import tcp_exchange

PER_SERVER = 300  # a word of the configuration is shorter than 4096 bytes


def config(block: str, values: list[str]) -> str:
    """Return a stream block whose servers print what ``block`` answers for each value.

    Args: block has %(in)s where the value belongs and %(out)s for the variable it sets
    """
    parts = []
    for n, value in enumerate(values):
        quoted = value.replace("\\", "\\\\").replace('"', '\\"')
        parts.append(f'map "" $i{n} {{ default "{quoted}"; }}')
        parts.append(block % {"in": f"$i{n}", "out": f"$o{n}"})
    for start in range(0, len(values), PER_SERVER):
        names = ",".join(f"$o{n}" for n in range(start, min(start + PER_SERVER, len(values))))
        parts.append(f'server {{ listen 127.0.0.1:@p{start}@; return "{names}"; }}')
    return "stream { " + "\n".join(parts) + " }"


def starts(values: list[str]) -> range:
    """Return the numbers in the servers' names."""
    return range(0, len(values), PER_SERVER)


def by_nginx(text: str, values: list[str], folder: Path, files: dict[str, bytes]) -> list[bytes]:
    """Return what nginx answers."""
    nginx = proxies.Nginx("events {} " + text, folder)
    for name, raw in files.items():
        (nginx.conf_file.parent / name).write_bytes(raw)
    with nginx:
        found = [tcp_exchange(("127.0.0.1", nginx.port(f"p{n}"))) for n in starts(values)]
    return b",".join(found).split(b",")


def by_us(text: str, values: list[str], files: dict[str, bytes]) -> list[bytes]:
    """Return what we answer."""
    others = {f"/p/conf/{name}": raw for name, raw in files.items()}
    served = in_process.InProcess(text, others=others)
    try:
        found = [served.read(served.connect(n)) for n in range(len(starts(values)))]
    finally:
        served.close()
    return b",".join(found).split(b",")


def compare(block: str, values: list[str], folder: Path, **files: bytes) -> None:
    """Fail if the two programs answer differently for any value."""
    text = config(block, values)
    theirs = by_nginx(text, values, folder, files)
    ours = by_us(text, values, files)
    assert len(values) == len(theirs)
    assert list(zip(values, theirs, strict=True)) == list(zip(values, ours, strict=True))


NAMES = [
    "example.com", "EXAMPLE.com", "www.example.com", "a.b.example.com", "example.org", "example.",
    "www.example.", "www.example.com.", "mail.example.net", "mail.example", "mail.", ".example.com",
    "..example.com", "com", "", ".", "*", "*.example.com", "a.example.org", "x.y.z", "deep.x.y.z",
    "default", "hostnames", "include", "~a", "\\a", "a", "A", "Zürich", "mail.example.net.",
    "mail.a.b", "www.example.com.com", "xn--a", "a b", "é", "0", "mail..example", "example.com..",
]


@pytest.mark.effect("map")
def test_map_finds_names_as_nginx_does(tmp_path: Path) -> None:
    """Exact names go before wildcards at the front, those before wildcards at the end."""
    compare(
        "map %(in)s %(out)s { hostnames; default none; example.com exact; *.example.com head2; "
        ".example.org dotted; *.b.example.com longer; mail.* tail; mail.example.* longtail; "
        "*.y.z head; x.y.z inner; \\default escaped; \\hostnames hosts; \\~a tilde; Zürich city; "
        "\"\" nothing; }",
        NAMES, tmp_path,
    )


def test_map_without_hostnames_takes_wildcards_as_they_are(tmp_path: Path) -> None:
    """Without hostnames a star and a dot at the end mean themselves."""
    compare(
        "map %(in)s %(out)s { *.example.com star; example.com. dot; example.com exact; "
        "~*^WWW caseless; ~^a$ a; ~a any-a; ~^(?<host>[^.]*)\\.(.*)$ $host/$2; default $1; }",
        NAMES, tmp_path,
    )


def test_map_of_a_thousand_keys_answers_as_nginx_does(tmp_path: Path) -> None:
    """A thousand names are looked up among included items with the same answers."""
    choose = random.Random(2)
    words = ["a", "bb", "c-c", "www", "mail", "example", "net", "com", "org"]
    keys = [".".join(choose.choices(words, k=choose.randint(1, 4))) for _ in range(1000)]
    items: dict[str, str] = {}
    for n in range(60):
        key = choose.choice(["", "", ".", "*."]) + ".".join(choose.choices(words, k=2))
        items.setdefault(key.lstrip("*."), f"{key} v{n};")
    for n in range(20):
        key = ".".join(choose.choices(words, k=choose.randint(1, 2)))
        items.setdefault(key + "*", f"{key}.* t{n};")
    compare(
        "map %(in)s %(out)s { hostnames; include items; ~^(?:a|bb)\\.(\\w+) re-$1; default -; }",
        keys, tmp_path, items="\n".join(items.values()).encode(),
    )


VOLATILE = (
    'map "ab" $one { "~^(.)(.)$" 1; } map "cd" $two { "~^(.)(.)$" 1; } '
    "map $protocol $fresh { volatile; default $2; } map $protocol $stale { default $2; } "
    "map 1 $a { 1 $fresh$stale; } map 1 $b { 1 $fresh$stale; }"
)

MAPS = {
    "captures": (
        'map "k-17" $x { "~^(?<letter>.)-(.)(.)$" "$letter:$2$3:$protocol"; default no; }',
        "$x $1 $letter",
    ),
    "captures of no match": ('map "k" $x { "~^(.)(x)?" "$1-$2-$3"; }', "$x"),
    "a named capture after its map": ('map "k" $x { "~(?<y>.)" $y; }', "$x [$y]"),
    "captures of one name": ('map 1 $x { "~(?J)(?<n>1)|(?<n>2)" yes; }', "$x [$n]"),
    "captures of one name, the last": ('map 2 $x { "~(?J)(?<n>1)|(?<n>2)" yes; }', "$x [$n]"),
    "properties": ('map "k-7" $x { "~^(\\p{L})\\X(?=7)*(\\p{N})$" "$2$1"; }', "$x"),
    "captures of one number": ('map "b-c" $x { "~^(?|(a)|(b))-(.)" "$1$2"; }', "$x"),
    "an empty source": ('map "" $x { "~^$" regex; default default; }', "$x"),
    "volatile": (VOLATILE, "$one$a$two$b"),
    "redefined": ("map 1 $x { 1 first; } map 1 $x { 1 second; }", "$x"),
    "redefined by another module": ("map 1 $x { 1 map; } geo $x { default geo; }", "$x"),
    "a circle": ("map $y $x { default <$y>; } map $x $y { default [$x]; }", "$x"),
    "a map of itself": ("map $x $x { default <$x>; }", "$x"),
    "a map of a map": ("map $y $x { b found; } map a $y { a b; }", "$x"),
}


@pytest.mark.parametrize("name", MAPS)
def test_maps_of_maps_are_evaluated_as_by_nginx(name: str, tmp_path: Path) -> None:
    """Captures, caching, redefinition and circles give the same text."""
    maps, result = MAPS[name]
    text = f'stream {{ {maps} server {{ listen 127.0.0.1:@p0@; return "{result}"; }} }}'
    assert by_nginx(text, [""], tmp_path, {}) == by_us(text, [""], {})


def addresses(count: int, seed: int) -> list[str]:
    """Return addresses, some of them odd."""
    choose = random.Random(seed)
    found = [
        "255.255.255.255", "0.0.0.0", "nonsense", "", "10.0.0", "1..2.3", "::1", "::", "unix:",
        "::ffff:10.0.0.1", "::ffff:0a01:0203", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        "010.1.2.3",
        "10.0.0.1:80", "[::1]", "2001:db8::1", "fe80::1%lo", "256.1.1.1", " 10.0.0.1",
    ]
    while len(found) < count:
        if choose.random() < 0.7:
            quad = [choose.choice((10, 10, 192, 172, 255)), *choose.choices((0, 1, 2, 255), k=3)]
            found.append(".".join(map(str, quad)))
        else:
            words = [choose.choice(("2001", "fe80", "0")), *choose.choices("0123f", k=7)]
            found.append(":".join(words))
    return found


def networks(seed: int) -> bytes:
    """Return items of a geo block."""
    choose = random.Random(seed)
    items: list[str] = []
    for n in range(150):
        if choose.random() < 0.7:
            quad = [choose.choice((10, 192, 172)), *choose.choices((0, 1, 2, 255), k=3)]
            items.append(f"{'.'.join(map(str, quad))}/{choose.randint(0, 32)} n{n};")
        else:
            words = [choose.choice(("2001", "fe80", "0")), *choose.choices("0123f", k=7)]
            items.append(f"{':'.join(words)}/{choose.randint(0, 128)} n{n};")
        if choose.random() < 0.1:
            known = [item for item in items if not item.startswith("delete")]
            items.append(f"delete {choose.choice(known).split()[0]};")
    return "\n".join(items).encode()


@pytest.mark.effect("geo")
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_geo_finds_networks_as_nginx_does(seed: int, tmp_path: Path) -> None:
    """The longest network decides, over 400 addresses and 150 networks."""
    default = "default none;" if seed != 2 else "255.255.255.255 nowhere;"
    compare(
        f"geo %(in)s %(out)s {{ {default} include networks; }}",
        addresses(400, seed), tmp_path, networks=networks(seed),
    )


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_geo_warns_of_networks_as_nginx_does(seed: int, tmp_path: Path) -> None:
    """Low bits, duplicates and deletions of nothing are warned of line by line."""
    text = "stream { geo $x { include networks; } server { listen 127.0.0.1:9; return $x; } }"
    others = {"networks": networks(seed)}
    expected = verdicts.nginx_says(text, tmp_path, others)
    assert len(expected) > 10
    assert expected == verdicts.we_say(text, others)


def nested_ranges(seed: int) -> bytes:
    """Return items of a geo block with ranges: wide ones first, then some inside them."""
    choose = random.Random(seed)
    text: list[str] = []

    def quad(n: int) -> str:
        return ".".join(map(str, n.to_bytes(4, "big")))

    def nest(low: int, high: int, depth: int) -> None:
        if depth == 0 or low >= high:
            return
        start, end = sorted(choose.choices(range(low, high + 1), k=2))
        text.append(f"{quad(start)}-{quad(end)} r{len(text)};")
        nest(start, end, depth - 1)

    for low, high in ((0x0A000000, 0x0A00FFFF), (0x0A010000, 0x0A02FFFF), (0xC0000000, 0xC0FFFFFF)):
        nest(low, high, 2 if high - low > 0x10000 else 5)
    whole = quad(0xAC000000), quad(0xAC0200FF)
    text.append(f"{whole[0]}-{whole[1]} wide;")
    text.append(f"delete {whole[0]}-{whole[1]};")
    text.append("172.1.0.0-172.1.2.255 again;")
    return "\n".join(text).encode()


@pytest.mark.effect("geo")
@pytest.mark.parametrize("seed", [4, 5, 6])
def test_geo_finds_ranges_as_nginx_does(seed: int, tmp_path: Path) -> None:
    """Ranges inside ranges decide, over 400 addresses."""
    compare(
        "geo %(in)s %(out)s { ranges; default none; include ranges; }",
        addresses(400, seed), tmp_path, ranges=nested_ranges(seed),
    )


@pytest.mark.effect("split_clients")
def test_split_clients_splits_as_nginx_does(tmp_path: Path) -> None:
    """A thousand strings fall into the same shares."""
    choose = random.Random(7)
    keys = ["a", "b", "key", "client-1", "client-2", "192.0.2.1", "2001:db8::1", "foo", ""]
    letters = "abcxyz0189-. é"
    keys += ["".join(choose.choices(letters, k=choose.randint(1, 12))) for _ in range(991)]
    compare(
        "split_clients %(in)s %(out)s { 0.5%% A; 33.33%% B; 20%% C; 40%% D; }", keys, tmp_path
    )


# -- access ------------------------------------------------------------------------------------

RULES = {
    "order": "deny 10.0.0.1; allow 10.0.0.0/8; deny 192.168.0.0/16; allow 2001:db8::/32; deny all;",
    "all first": "allow all; deny 10.0.0.0/8;",
    "only v6": "deny ::/0;",
    "only v4": "deny 0.0.0.0/0;",
    "only unix": "deny unix:;",
    "mapped": "deny ::ffff:10.0.0.0/104; allow 10.0.0.1;",
    "longer after shorter": "allow 10.0.0.0/8; deny 10.0.0.0/24; allow 192.168.1.1; deny "
                            "192.168.0.0/16;",
    "nothing": "",
}

CLIENTS = [
    "10.0.0.1", "10.0.0.2", "10.1.0.1", "192.168.1.1", "192.168.2.1", "172.16.0.1", "127.0.0.1",
    "2001:db8::1", "2001:db9::1", "::1", "::ffff:10.0.0.1", "::ffff:192.168.2.1",
]


def header(client: str) -> bytes:
    """Return a PROXY header that says who the client is."""
    if ":" in client:
        return f"PROXY TCP6 {client} ::1 1000 2000\r\n".encode()
    return f"PROXY TCP4 {client} 127.0.0.1 1000 2000\r\n".encode()


ACCESS = (
    "stream { set_real_ip_from 127.0.0.0/8; "
    "server { listen 127.0.0.1:@a@ proxy_protocol; %s return passed; } }"
)


@pytest.mark.effect("allow", "deny")
@pytest.mark.parametrize("rules", sorted(RULES))
def test_access_lets_in_whom_nginx_lets_in(rules: str, tmp_path: Path) -> None:
    """The same clients pass, whatever the order of the rules and the family."""
    text = ACCESS % RULES[rules]
    with proxies.Nginx("events {} " + text, tmp_path) as nginx:
        theirs = [
            tcp_exchange(nginx.address("a"), header(client), half_close=False)
            for client in CLIENTS
        ]
    served = in_process.InProcess(text)
    ours = []
    for name in CLIENTS:
        client = served.connect()
        client.sendall(header(name))
        ours.append(served.read(client))
        client.close()
    served.close()
    assert list(zip(CLIENTS, theirs, strict=True)) == list(zip(CLIENTS, ours, strict=True))
