"""The codec between processes: what goes in comes out, and any bytes are a value or one error."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngxstream.ipc import addresses, codec
from ngxstream.ipc.codec import CodecError, Field, List, Optional, Record
from tests.support.sockaddrs import keys, sockaddrs

numbers = st.integers(-(1 << 63), (1 << 63) - 1)
texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
plain = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.binary(max_size=40), texts),
    lambda inner: st.lists(inner, max_size=4).map(tuple),
    max_leaves=8,
).filter(lambda value: depth(value) <= 6)


def depth(value: object) -> int:
    """Return how deep tuples stand in tuples."""
    if not isinstance(value, tuple):
        return 0
    return 1 + max(map(depth, value), default=0)


INNER = Record("inner", Field(1, "name", codec.Text(200)), Field(2, "count", codec.INT, 0))
OUTER = Record(
    "outer",
    Field(1, "number", codec.INT),
    Field(2, "flag", codec.BOOL, False),
    Field(3, "data", codec.Bytes(300), b""),
    Field(4, "inner", List(INNER, 5), []),
    Field(5, "address", addresses.ADDRESS, None),
    Field(6, "key", addresses.CLIENT_KEY, None),
    Field(7, "maybe", Optional(codec.FLOAT), None),
    Field(8, "plain", codec.Plain(10_000), None),
)
outers = st.tuples(
    numbers,
    st.booleans(),
    st.binary(max_size=300),
    st.lists(st.tuples(texts, numbers), max_size=5),
    sockaddrs,
    keys,
    st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)),
    plain,
)
KINDS = {
    "int": codec.INT,
    "uint": codec.UINT,
    "numbers": codec.Numbers(3, -1),
    "repeated": codec.Repeated(addresses.LISTEN_KEY),
    "bool": codec.BOOL,
    "float": codec.FLOAT,
    "bytes": codec.Bytes(50),
    "text": codec.Text(50),
    "word": codec.Text(50, is_word=True),
    "list": List(codec.UINT, 20),
    "optional": Optional(codec.UINT),
    "record": OUTER,
    "address": addresses.ADDRESS,
    "client key": addresses.CLIENT_KEY,
    "listen key": addresses.LISTEN_KEY,
    "plain": codec.Plain(1000),
}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))


# -- round trips -----------------------------------------------------------------------------------


@given(outers)
def test_a_record_comes_out_as_it_went_in(values: tuple) -> None:
    """Whatever the fields hold."""
    assert values == OUTER.decode(OUTER.encode(values))


@given(plain)
def test_a_plain_value_says_what_it_is(value: object) -> None:
    """Types are kept: a truth is no number, a text no bytes."""
    kind = codec.Plain(10_000)
    found = kind.decode(kind.encode(value))
    assert (type(value), value) == (type(found), found)


# -- bounds ----------------------------------------------------------------------------------------


@every_kind
@given(data=st.binary(max_size=400))
def test_any_bytes_are_a_value_or_the_error(kind: codec.Kind, data: bytes) -> None:
    """Nothing else is raised, and a value that came out goes in again."""
    try:
        value = kind.decode(data)
    except CodecError:
        return
    assert value == kind.decode(kind.encode(value))


@given(outers, st.data())
def test_a_message_that_was_changed_is_a_value_or_the_error(values: tuple, data: st.DataObject):
    """Bytes replaced, cut out or put in."""
    message = bytearray(OUTER.encode(values))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(message)))
        end = data.draw(st.integers(at, min(len(message), at + 5)))
        message[at:end] = data.draw(st.binary(max_size=5))
    try:
        found = OUTER.decode(bytes(message))
    except CodecError:
        return
    assert found == OUTER.decode(OUTER.encode(found))


@given(outers, st.integers(1, 1 << 20))
def test_what_ends_too_early_is_refused(values: tuple, size: int) -> None:
    """A record that is cut within a field is none."""
    message = OUTER.encode(values)
    cut = message[: -(size % len(message) or 1)]
    try:
        found = OUTER.decode(cut)
    except CodecError:
        return
    assert found != values or message == cut


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (codec.Bytes(3), b"four"),
        (codec.Text(3), b"four"),
        (codec.Text(9, is_word=True), b"a\nb"),
        (codec.Text(9, is_word=True), b"\x7f"),
        (codec.UINT, codec.INT.encode(-1)),
        (codec.PID, codec.INT.encode(0)),
        (codec.INT, bytes(9)),
        (codec.Numbers(2), bytes(15)),
        (codec.Numbers(2), bytes(17)),
        (codec.Numbers(2), codec.Numbers(2, -1).encode((1, -1))),
        (codec.BOOL, b"\2"),
        (codec.BOOL, b""),
        (codec.FLOAT, b"12345678"[:7]),
        (List(codec.UINT, 2), List(codec.UINT, 3).encode([1, 2, 3])),
        (List(codec.UINT, 2), b"\xff\xff\xff\x7f"),
        (List(codec.UINT, 2), b"\1\0\0"),
        (Optional(codec.UINT), b""),
        (Optional(codec.UINT), b"\2"),
        (codec.Plain(4), b"bfour!"),
        (codec.Plain(100), b"N!"),
        (codec.Plain(100), b"x"),
        (codec.Plain(100, depth=1), codec.Plain(100).encode((((),),))),
    ],
)
def test_what_is_out_of_bounds_is_refused(kind: codec.Kind, data: bytes) -> None:
    """Too long, too many, too deep, too early, or no such value."""
    with pytest.raises(CodecError):
        kind.decode(data)


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_what_is_no_number_is_refused(number: float) -> None:
    """Times are computed with it."""
    with pytest.raises(CodecError):
        codec.FLOAT.decode(codec.FLOAT.encode(number))


def test_a_count_reserves_no_memory() -> None:
    """A list whose first value claims gigabytes is refused by what is left of the bytes."""
    with pytest.raises(CodecError, match="ends within a value"):
        List(codec.Bytes(1 << 40), 1 << 40).decode(b"\xff\xff\xff\xff" + bytes(100))


def test_deep_nesting_is_refused() -> None:
    """A thousand tuples in each other end in the error, not at the interpreter's limit."""
    data = b"t"
    for _ in range(1000):
        data = b"t" + len(data).to_bytes(4, "little") + data
    with pytest.raises(CodecError):
        codec.Plain(1 << 20).decode(data)


# -- releases --------------------------------------------------------------------------------------


NEWER = Record(
    "outer", Field(1, "number", codec.INT), Field(9, "new", List(codec.UINT, 9)),
    Field(2, "flag", codec.BOOL, False),
)
OLDER = Record("outer", Field(1, "number", codec.INT), Field(2, "flag", codec.BOOL, False))


def test_a_field_of_a_newer_release_is_skipped() -> None:
    """An older one reads what it knows."""
    assert (7, True) == OLDER.decode(NEWER.encode((7, [1, 2, 3], True)))


def test_a_field_that_an_older_release_does_not_send_has_its_default() -> None:
    """Or is missed, where there is none."""
    assert (7, True) == OUTER.decode(OLDER.encode((7, True)))[:2]
    with pytest.raises(CodecError, match="a outer lacks a field"):
        NEWER.decode(OLDER.encode((7, True)))


def test_numbers_of_a_newer_release_stand_behind() -> None:
    """An older one takes those it knows."""
    assert (1, 2) == codec.Numbers(2).decode(codec.Numbers(3).encode((1, 2, 3)))


def test_a_field_may_come_once() -> None:
    """Of two values neither is believed."""
    with pytest.raises(CodecError, match="has field 1 twice"):
        OLDER.decode(OLDER.encode((7, True)) + OLDER.encode((8, True)))


def test_a_tag_has_one_meaning() -> None:
    """A schema that uses a tag twice cannot be made."""
    with pytest.raises(AssertionError):
        Record("twice", Field(1, "a", codec.INT), Field(1, "b", codec.INT))


# -- size ------------------------------------------------------------------------------------------
