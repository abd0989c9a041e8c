"""tests/unit mirrors the package: one file of tests for each module."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "ngxstream"

# Declarations: nothing in them could be wrong that another module's test would not show.
DECLARATIONS = {
    "__main__.py": "two lines that call process/cli.py",
    "core/codes.py": "numbers of nginx's",
    "core/geoip_countries.py": "a table, compared with libGeoIP's in test_geoip_db.py",
    "event/tls_protocols.py": "numbers",
    "modules/api/module.py": "the record of a module",
    "modules/api/states.py": "numbers, and words for them",
    "modules/proxy/module.py": "the record of a module",
    "modules/py/module.py": "the record of a module",
    "modules/sessions/module.py": "the record of a module",
    "modules/ssl/module.py": "the record of a module",
    "scripting/phases.py": "a name",
    "scripting/context.py": "a record",
    "stream/filtering.py": "protocols",
    "scripting/errors.py": "exceptions",
    "process/places.py": "paths",
    "stream/module.py": "the record of a module",
}
# What is tested together with another module, by its file below tests/.
ELSEWHERE = {
    "ctl/changing.py": "unit/ctl/test_commands.py",
    "event/dns_query.py": "unit/event/test_resolver.py",
    "event/resolver_counts.py": "unit/event/test_resolver.py",
    "event/listen_options.py": "unit/event/test_listening.py",
    "event/tracing.py": "differential/test_debug_connection.py",
    "event/tls_pump.py": "unit/event/test_tls.py",
    "modules/api/channel.py": "unit/modules/api/test_serving.py",
    "modules/api/policy.py": "unit/modules/api/test_page.py",
    "modules/api/refusals.py": "unit/modules/api/test_answering.py",
    "modules/proxy/traced.py": "differential/test_debug_connection.py",
    "stream/tracing.py": "differential/test_debug_connection.py",
    "event/udp_answers.py": "unit/event/test_udp.py",
    "event/udp_gro.py": "unit/event/test_udp.py",
    "event/udp_held.py": "unit/event/test_udp.py",
    "modules/proxy/filtered.py": "unit/modules/py/test_filters.py",
    "modules/proxy/handler.py": "unit/modules/proxy/test_tcp.py",
    "modules/proxy/tls.py": "wire/test_tls_origination.py",
    "stream/drawing.py": "unit/modules/upstream/test_hash.py",
    "modules/upstream/keys.py": "unit/modules/upstream/test_zone.py",
    "modules/upstream/listing.py": "unit/modules/upstream/test_servers_api.py",
    "modules/upstream/params.py": "unit/modules/upstream/test_servers_api.py",
    "modules/upstream/records.py": "unit/modules/upstream/test_names.py",
    "modules/upstream/roster.py": "unit/modules/upstream/test_dynamic.py",
    "modules/py/filters_results.py": "unit/modules/py/test_filters.py",
    "scripting/filters.py": "unit/modules/py/test_filters.py",
    "modules/proxy/udp_exchange.py": "unit/modules/proxy/test_udp_to_server.py",
    "modules/ssl/context.py": "unit/modules/ssl/test_handshake.py",
    "wire/dialogues.py": "unit/wire/test_probes.py",
    "wire/probes_datagram.py": "unit/wire/test_probes.py",
}


def mirror_of(source: str) -> str:
    """Return the file that tests a module, below tests/. A keyword's underscore is dropped."""
    path = Path("unit", source)
    return str(path.with_name(f"test_{path.stem.rstrip('_')}.py"))


def test_every_module_has_its_file_of_tests() -> None:
    """One of its own, or it stands above, with the reason or the file that tests it."""
    sources = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py")}
    sources = {source for source in sources if not source.endswith("__init__.py")}
    bare = {one for one in sources if not (ROOT / "tests" / mirror_of(one)).exists()}
    assert {*DECLARATIONS, *ELSEWHERE} == bare


def test_what_is_tested_elsewhere_is_tested_there() -> None:
    """The files that are named are there."""
    assert [] == [file for file in ELSEWHERE.values() if not (ROOT / "tests" / file).exists()]
