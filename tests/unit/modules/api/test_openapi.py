"""The API's description of itself: whole, and true."""

import json
import re
from types import SimpleNamespace
from typing import Any, cast

from ngxstream.modules.api import openapi
from ngxstream.stream import api
from tests import api_reference
from tests.support import api_calls, certs, json_schema
from tests.support.api_calls import OWN, PLUS
from tests.support.backends import BackendFactory
from tests.support.clients import TcpClient, UdpClient
from tests.support.proxies import Proxy, ProxyFactory

ENDPOINTS = api_reference.endpoints()
SERVERS = f"{PLUS}/stream/upstreams/group/servers"
KEYVALS = f"{PLUS}/stream/keyvals/pairs"
TCP = "127.0.0.1:@tcp@"
CLIENT = "protocol=tcp&client=192.0.2.9:1&local=127.0.0.1:@tcp@"

CONF = """
worker_processes 2;
events {}
stream {
    resolver 127.0.0.1:@dns@ status_zone=names;
    limit_conn_zone $remote_addr zone=conns:32k;
    keyval_zone zone=shared:32k store=redis://127.0.0.1:1;
    limit_sess_zone $remote_addr zone=rates:32k rate=100r/s;
    limit_datagram_zone $remote_addr zone=packets:32k rate=100r/s;
    limit_bandwidth_zone $remote_addr zone=bytes:32k rate=1m;
    keyval_zone zone=pairs:32k;
    keyval $remote_addr $value zone=pairs;
    upstream group { zone group 64k; server BACKEND; }
    upstream plain { server BACKEND; }
    server { listen 127.0.0.1:@api@; api write=on; }
    server { listen 127.0.0.1:@tcp@; limit_conn conns 10; limit_sess zone=rates burst=99 nodelay;
             proxy_pass group;
             health_check interval=1h; }
    server { listen 127.0.0.1:@udp@ udp; proxy_pass plain; }
    server { listen 127.0.0.1:@tls@ ssl; server_name a.test; ssl_certificate CERT;
             ssl_certificate_key KEY; return $value; }
}
"""

# What each operation is called with: target, and body if it takes one. Of each path the names in
# it are left out. They are called in this order.
STORE = "redis:%2F%2F127.0.0.1:1"
EXAMPLES: dict[str, tuple[str, Any]] = {
    **{f"GET /api/*/{path}".rstrip("/"): (f"{PLUS}/{path}", None) for path in (
        "", "nginx", "processes", "connections", "slabs", "ssl", "resolvers", "workers", "stream",
        "http", "http/caches", "http/limit_conns", "http/limit_reqs", "http/location_zones",
        "http/server_zones", "http/upstreams", "http/requests", "stream/server_zones",
        "stream/limit_conns", "stream/keyvals", "stream/upstreams", "stream/zone_sync",
    )},
    "GET /api/*/workers/*": (f"{PLUS}/workers/1", None),
    "GET /api/*/slabs/*": (f"{PLUS}/slabs/group", None),
    "GET /api/*/resolvers/*": (f"{PLUS}/resolvers/names", None),
    "GET /api/*/stream/server_zones/*": (f"{PLUS}/stream/server_zones/{TCP}", None),
    "GET /api/*/stream/limit_conns/*": (f"{PLUS}/stream/limit_conns/conns", None),
    "GET /api/*/stream/upstreams/*": (f"{PLUS}/stream/upstreams/plain", None),
    "POST /api/*/stream/upstreams/*/servers": (SERVERS, {"server": "192.0.2.1:9", "down": True}),
    "GET /api/*/stream/upstreams/*/servers": (SERVERS, None),
    "GET /api/*/stream/upstreams/*/servers/*": (f"{SERVERS}/1", None),
    "PATCH /api/*/stream/upstreams/*/servers/*": (f"{SERVERS}/1", {"weight": 7}),
    "DELETE /api/*/stream/upstreams/*/servers/*": (f"{SERVERS}/1", None),
    "POST /api/*/stream/keyvals/*": (KEYVALS, {"127.0.0.1": "one"}),
    "GET /api/*/stream/keyvals/*": (KEYVALS, None),
    "PATCH /api/*/stream/keyvals/*": (KEYVALS, {"127.0.0.1": "two"}),
    "DELETE /api/*/stream/keyvals/*": (KEYVALS, None),
    **{f"DELETE /api/*/{path}": (f"{PLUS}/{target or path}", None) for path, target in (
        ("processes", ""), ("connections", ""), ("ssl", ""), ("workers", ""),
        ("workers/*", "workers/0"), ("slabs/*", "slabs/group"), ("resolvers/*", "resolvers/names"),
        ("stream/server_zones/*", f"stream/server_zones/{TCP}"),
        ("stream/limit_conns/*", "stream/limit_conns/conns"),
        ("stream/upstreams/*", "stream/upstreams/group"),
    )},
    "GET /api": ("/api", None),
    "GET /api/ngxstream": ("/api/ngxstream", None),
    **{f"GET {OWN}/{path}".rstrip("/"): (f"{OWN}/{path}", None) for path in (
        "", "workers", "reloads", "log", "certificates", "sessions", "openapi.json",
        "server_zones", "upstreams", "limit_sess", "limit_datagram",
        "limit_bandwidth", "stores", "node",
    )},
    f"PATCH {OWN}/node": (f"{OWN}/node", {"draining": False}),
    f"GET {OWN}/stores/*": (f"{OWN}/stores/{STORE}", None),
    f"DELETE {OWN}/stores/*": (f"{OWN}/stores/{STORE}", None),
    f"GET {OWN}/limit_sess/*": (f"{OWN}/limit_sess/rates", None),
    f"DELETE {OWN}/limit_sess/*": (f"{OWN}/limit_sess/rates", None),
    f"GET {OWN}/limit_datagram/*": (f"{OWN}/limit_datagram/packets", None),
    f"DELETE {OWN}/limit_datagram/*": (f"{OWN}/limit_datagram/packets", None),
    f"GET {OWN}/limit_bandwidth/*": (f"{OWN}/limit_bandwidth/bytes", None),
    f"DELETE {OWN}/limit_bandwidth/*": (f"{OWN}/limit_bandwidth/bytes", None),
    f"GET {OWN}/explain": (f"{OWN}/explain?{CLIENT}", None),
    f"GET {OWN}/upstreams/*": (f"{OWN}/upstreams/group", None),
    f"GET {OWN}/upstreams/*/servers": (f"{OWN}/upstreams/group/servers", None),
    f"PUT {OWN}/upstreams/*/servers": (
        f"{OWN}/upstreams/group/servers?dry_run=1", [{"server": "192.0.2.2:9"}]
    ),
    f"POST {OWN}/upstreams/*/probe": (f"{OWN}/upstreams/group/probe", None),
    f"DELETE {OWN}/sessions/*": (f"{OWN}/sessions/SESSION", None),
    f"DELETE {OWN}/sessions": (f"{OWN}/sessions?protocol=udp", None),
    **{f"GET {path}": (path, None) for path in (
        "/", "/dashboard.html", "/healthz", "/metrics", "/stub_status",
    )},
}


# -- the document ----------------------------------------------------------------------------------


def test_the_description_is_whole() -> None:
    """Each operation has a name of its own, each name in a path is described."""
    made = openapi.document(ENDPOINTS)
    assert made == json.loads(json.dumps(made))
    operations = [
        (path, one) for path, methods in made["paths"].items() for one in methods.values()
    ]
    names = [one["operationId"] for _, one in operations]
    assert len(set(names)) == len(names)
    for path, one in operations:
        named = {given["name"] for given in one["parameters"] if given["in"] == "path"}
        assert set(re.findall(r"\{(\w+)\}", path)) == named
        assert one["summary"].endswith(".")
    declared = {
        (re.sub(r"\{\w+\}", "*", endpoint.tree + endpoint.path.rstrip("/")) or "/", method)
        for endpoint in ENDPOINTS for method in endpoint.operations
    }
    shown = {
        (re.sub(r"\{\w+\}", "*", path), method.upper())
        for path, methods in made["paths"].items() for method in methods
    }
    assert set() == declared - shown
    assert {("/api", "GET"), ("/api/*", "GET"), ("/api/*/stream", "GET")} <= shown


def test_all_schemas_say_only_what_is_checked() -> None:
    """Those of replies, of bodies and of arguments."""
    for methods in openapi.document(ENDPOINTS)["paths"].values():
        for one in methods.values():
            bodies = [one["requestBody"]] if "requestBody" in one else []
            for said in (*one["responses"].values(), *bodies):
                for content in said.get("content", {}).values():
                    if "$ref" not in content["schema"]:
                        json_schema.check(content["schema"])
            for given in one["parameters"]:
                json_schema.check(given["schema"])
    json_schema.check(openapi.document([])["components"]["schemas"]["Error"])


def test_paths_follow_the_prefix() -> None:
    """What is served beside the API does not."""
    paths = openapi.document(ENDPOINTS, "/x/y")["paths"]
    assert {"/x/y", "/x/y/{version}/nginx", "/x/y/ngxstream/1/log", "/healthz"} <= set(paths)
    assert not [path for path in paths if path.startswith("/api")]


def test_names_in_paths_are_those_that_are_declared() -> None:
    """Whatever stands below calls them; what stands above others is an index of them."""
    one = api.Operation(lambda _: None, "One.")
    made = openapi.document([
        api.Endpoint(api.OWN, "/a/{x}/b", {"GET": one}),
        api.Endpoint(api.OWN, "/a/{y}", {"GET": one}),
        api.Endpoint(api.OWN, "/c/{z}/d", {"DELETE": one}),
    ])
    paths = [path.removeprefix(OWN) for path in made["paths"] if path.startswith(OWN)]
    assert ["", "/a/{y}", "/a/{x}/b", "/c/{z}", "/c/{z}/d"] == paths


def test_a_configuration_is_described_once() -> None:
    """The next one anew."""
    described = openapi.Described(cast("Any", None))
    first, second = (cast("Any", SimpleNamespace(modules=[])) for _ in range(2))
    made = described.of(first, "/api")
    assert made is described.of(first, "/api")
    assert made is not described.of(first, "/x")
    assert made is described.of(first, "/api")
    assert made is not described.of(second, "/api")


# -- a running program -----------------------------------------------------------------------------


def operations(made: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the operations by `METHOD path`, the names in it left out."""
    return {
        f"{method.upper()} {re.sub(r'{[^}]+}', '*', path)}": one
        for path, methods in made["paths"].items() for method, one in methods.items()
    }


def test_every_operation_answers_as_it_is_described(
    ngxstream: ProxyFactory, backends: BackendFactory, tmp_path: Any
) -> None:
    """Status, content type and body of each; there is an example for each."""
    pair = certs.Authority(tmp_path / "ca").issue("a.test")
    program = ngxstream(
        CONF.replace("BACKEND", backends.tcp().text).replace("CERT", str(pair.cert))
        .replace("KEY", str(pair.key)),
        expected=(r"store .* is away",),
    )
    made = api_calls.get(program, f"{OWN}/openapi.json")
    assert openapi.document(ENDPOINTS) == made
    described = operations(made)
    assert [] == [name for name in described if name not in EXAMPLES]
    with UdpClient(program.address("udp")) as udp, TcpClient(program.address("tcp")) as tcp:
        udp.send(b"x")
        tcp.send(b"x")
        assert b"x" == tcp.recv()
        faults = []
        for name, (target, body) in EXAMPLES.items():
            if name in described:
                method = name.partition(" ")[0]
                got = api_calls.call(program, filled(program, target), method, body)
                faults += [f"{name}: {fault}" for fault in wrong(described[name], *got)]
        assert [] == faults


def filled(program: Proxy, target: str) -> str:
    """Return a target with what is known only now."""
    target = program.fill(target)
    if "SESSION" in target:
        listed = api_calls.get(program, f"{OWN}/sessions?state=relaying&protocol=tcp")
        (session,) = listed["sessions"]
        target = target.replace("SESSION", session["id"])
    return target


def wrong(operation: dict[str, Any], status: int, kind: str, body: bytes) -> list[str]:
    """Return what is wrong with a reply."""
    said = operation["responses"].get(str(status))
    if said is None:
        return [f"status {status}, {body!r}"]
    if "content" not in said:
        return [f"a body: {body!r}"] if body else []
    ((wanted, content),) = said["content"].items()
    if kind != wanted:
        return [f"content type {kind}, not {wanted}"]
    value = json.loads(body) if wanted == "application/json" else body.decode()
    return list(json_schema.faults(value, content["schema"]))


def test_errors_are_as_described(ngxstream: ProxyFactory) -> None:
    """Of what is not there, of what is not allowed, of what makes no sense."""
    program = ngxstream("events {} stream { server { listen 127.0.0.1:@api@; api; } }")
    schema = openapi.document([])["components"]["schemas"]["Error"]
    for status, method, target in (
        (404, "GET", f"{PLUS}/nothing"), (404, "GET", "/api/10/nginx"),
        (404, "GET", f"{PLUS}/workers/99"), (400, "GET", f"{OWN}/log?limit=0"),
        (405, "DELETE", f"{PLUS}/processes"), (404, "GET", "/nothing"),
    ):
        got, kind, body = api_calls.call(program, target, method)
        assert (status, "application/json") == (got, kind), target
        assert [] == list(json_schema.faults(json.loads(body), schema))


def test_the_server_s_own_prefix_is_described(ngxstream: ProxyFactory) -> None:
    """Each server describes what it serves."""
    program = ngxstream(
        "events {} stream { server { listen 127.0.0.1:@api@; api; } "
        "server { listen 127.0.0.1:@other@; api prefix=/x; } }"
    )
    for _ in range(2):
        assert "/api" in api_calls.get(program, f"{OWN}/openapi.json")["paths"]
        other = api_calls.get(program, "/x/ngxstream/1/openapi.json", name="other")
        assert "/x" in other["paths"]
