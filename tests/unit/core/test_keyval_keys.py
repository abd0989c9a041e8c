"""Keys of a keyval_zone: which texts are keys, and which keys fit what is looked up."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.core.keyval_keys import KINDS, MAX_KEY

NETWORKS = st.one_of(
    st.tuples(st.ip_addresses(v=4).filter(lambda one: int(one) != 0xFFFFFFFF), st.integers(0, 32)),
    st.tuples(st.ip_addresses(v=6), st.integers(0, 128)),
)
TEXTS = st.text(min_size=1, max_size=40)


@pytest.mark.parametrize("kind", ["string", "prefix"])
@given(text=TEXTS)
def test_a_text_is_its_own_key(kind: str, text: str) -> None:
    """What is UTF-8 is a key, and comes back."""
    keys = KINDS[kind]
    assert text == keys.text(keys.parse(text))
    assert 0 <= keys.class_of(keys.parse(text)) < keys.classes


@pytest.mark.parametrize("kind", ["string", "prefix"])
@pytest.mark.parametrize("text", ["", "x" * (MAX_KEY + 1), "\ud800"])
def test_what_is_empty_long_or_no_text_is_no_key(kind: str, text: str) -> None:
    """So is half of a surrogate pair, which JSON can spell."""
    with pytest.raises(ValueError):
        KINDS[kind].parse(text)


def test_the_longest_key_is_one() -> None:
    """The bound itself is within it."""
    for kind in ("string", "prefix"):
        key = KINDS[kind].parse("x" * MAX_KEY)
        assert KINDS[kind].class_of(key) < KINDS[kind].classes


@given(NETWORKS)
def test_networks_are_normalized(network) -> None:
    """Low bits are cleared, and a whole address has no length; a mapped address is IPv4."""
    address, length = network
    keys = KINDS["ip"]
    expected = ipaddress.ip_network((address, length), strict=False)
    if expected.version == 6 and length >= 96:
        mapped = expected.network_address.ipv4_mapped
        if mapped is not None:
            expected = ipaddress.ip_network((mapped, length - 96))
    key = keys.parse(f"{address}/{length}")
    assert 0 <= keys.class_of(key) < keys.classes
    shown = ipaddress.ip_network(keys.text(key))
    assert expected == shown
    assert ("/" in keys.text(key)) == (expected.prefixlen != expected.max_prefixlen)


@pytest.mark.parametrize(
    "text",
    ["", "x", "1.2.3.4/33", "1.2.3.4/", "::1/129", "unix:", "1.2.3.4\0", "255.255.255.255"],
)
def test_what_is_no_network_is_no_key(text: str) -> None:
    """Nor is it found."""
    keys = KINDS["ip"]
    with pytest.raises(ValueError):
        keys.parse(text)
    assert [] == list(keys.candidates(text.encode(), tuple(range(keys.classes))[::-1]))


@given(NETWORKS, st.sets(st.integers(0, 161)))
def test_candidates_are_the_networks_around_it(network, classes: set[int]) -> None:
    """All networks of the lengths there are that hold what is looked up, the smallest first."""
    keys = KINDS["ip"]
    subject = ipaddress.ip_network(keys.text(keys.parse("{}/{}".format(*network))))
    base = 0 if subject.version == 4 else 33
    lengths = sorted((n - base for n in classes if base <= n <= base + subject.prefixlen),
                     reverse=True)
    expected = [subject.supernet(new_prefix=n) for n in lengths if n <= subject.max_prefixlen]
    found = keys.candidates(str(subject).encode(), tuple(sorted(classes, reverse=True)))
    assert expected == [ipaddress.ip_network(keys.text(key)) for key in found]


@given(st.binary(max_size=30), st.sets(st.integers(1, 40)))
def test_candidates_are_the_beginnings_of_it(subject: bytes, classes: set[int]) -> None:
    """Of the lengths there are, the longest first."""
    ladder = tuple(sorted(classes, reverse=True))
    expected = [subject[:n] for n in range(len(subject), 0, -1) if n in classes]
    assert expected == list(KINDS["prefix"].candidates(subject, ladder))


def test_damage_has_a_text_and_a_class() -> None:
    """What a process wrote that is no key of a type is shown, and counted somewhere."""
    keys = KINDS["ip"]
    for key in (b"\xff1234", b"\xff" * 17, b"\x01\x02\x03", b"\xff"):
        assert keys.text(key)
        assert 0 <= keys.class_of(key) < keys.classes
    assert "\ufffd" == KINDS["string"].text(b"\xff")
