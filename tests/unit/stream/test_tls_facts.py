"""Facts of handshakes: one list of names for servers and for all together."""

from ngxstream.core.facts import Facts
from ngxstream.core.shm_facts import Rows
from ngxstream.stream import tls_facts


def test_what_a_server_counts_all_together_count() -> None:
    """Two servers, each its own; an empty name counts nothing."""
    facts = Facts([*tls_facts.OF_ALL, *tls_facts.OF_SERVERS])
    a, b = (tls_facts.Handshakes(facts, label) for label in "ab")
    rows = Rows()
    facts.attach(rows)
    row = rows.cells
    a.count(row, tls_facts.HANDSHAKES, tls_facts.REUSES)
    a.count(row, tls_facts.FAILED, "")
    b.count(row, tls_facts.HANDSHAKES, "no_cert")
    of_all = {name: cell.total for name, cell in tls_facts.of_all(facts).items() if cell.total}
    expected = {"handshakes": 2, "session_reuses": 1, "handshakes_failed": 1, "no_cert": 1}
    assert expected == of_all
    own = [{name: cell.total for name, cell in one.own.items() if cell.total} for one in (a, b)]
    assert [{"handshakes": 1, "session_reuses": 1, "handshakes_failed": 1},
            {"handshakes": 1, "no_cert": 1}] == own


def test_what_is_shown_has_the_refused_in_an_object_of_their_own() -> None:
    """As the schema says, for any choice of names."""
    for names in (tls_facts.NAMES, [n for n in tls_facts.NAMES if n != "no_cert"]):
        shown = tls_facts.shown(names, range(len(names)))
        schema = tls_facts.schema_of(names)
        assert set(schema["properties"]) == set(shown)
        inner = schema["properties"]["verify_failures"]
        assert set(inner["properties"]) == set(shown["verify_failures"])
        assert len(names) == len(shown) - 1 + len(shown["verify_failures"])
        assert shown["handshakes"] == 0


def test_facts_may_be_of_others() -> None:
    """With names of their own, and without what they cannot count."""
    made = tls_facts.facts_of("peer_ssl", "server", ", with this server", ("no_cert",))
    assert len(tls_facts.NAMES) - 1 == len(made)
    assert "peer_ssl_handshakes" == made[0].name
    assert made[0].doc == "TLS handshakes that succeeded, with this server."
