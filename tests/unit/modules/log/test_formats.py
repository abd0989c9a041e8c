"""Lines of a log: whatever the values are, what comes out is literals and escaped values."""

from hypothesis import given, settings
from hypothesis import strategies as st

from ngxstream.core import escape
from ngxstream.modules.log import formats
from ngxstream.stream import variables
from ngxstream.stream.variables import PLAIN, Variable
from tests.support.sessions import FakeSession

ESCAPES = {"default": escape.default, "json": escape.json, "none": bytes}
MISSING = {"default": b"-", "json": b"", "none": b""}
LITERAL = st.sampled_from([" ", "%", "%b", "[", '"', "é"])
DOUBTFUL = st.none() | st.binary(max_size=6) | st.sampled_from([b'"', b"\\", b"\n", b"\xff"])


@settings(max_examples=200)
@given(
    kind=st.sampled_from(sorted(ESCAPES)),
    parts=st.lists(LITERAL | st.tuples(st.booleans(), DOUBTFUL), min_size=1, max_size=8),
)
def test_a_line_is_its_parts(kind: str, parts: list) -> None:
    """Literals stand as they are; a value that is missing or would break the line does not."""
    escaped = ESCAPES[kind]
    builtin, words, expected = [], [f"escape={kind}"], b""
    for n, part in enumerate(parts):
        if isinstance(part, str):
            words.append(part)
            expected += part.encode()
            continue
        is_plain, value = part
        if is_plain:
            value = b"%d" % n
        builtin.append(Variable(f"v{n}", lambda s, value=value: value, PLAIN * is_plain))
        words.append(f"${{v{n}}}")
        expected += MISSING[kind] if value is None else escaped(value)
    table = variables.VariableTable(builtin)
    made = formats.compile_format("f", words, table)
    table.link()
    s = FakeSession()
    assert (expected, expected + b"\n") == (made.text(s), made.line(s))
