"""docs/api-reference.md: the API's own description (modules/api/openapi.py) for people."""

from collections.abc import Iterator
from typing import Any

from ngxstream.modules.api import openapi
from ngxstream.process import cycle
from ngxstream.stream.module import StreamModule

COMMAND = "make docs"
HEAD = f"""\
# The API

Printed from what the modules declare (`{COMMAND}`); do not edit. The same is served as OpenAPI 3.1
at `/api/ngxstream/1/openapi.json`. `{{version}}` is a number from 1 to 9: all of them are the same.

In what is sent and taken, `?` marks a member that may be missing, and `…` one of any name. Times
are RFC 3339 in UTC. Every method but GET (and HEAD) needs `api write=on`.
"""


def endpoints() -> list[Any]:
    """Return what all modules of the program declare."""
    modules = [module for module in cycle.MODULES if isinstance(module, StreamModule)]
    return [endpoint for module in modules for endpoint in module.endpoints]


def lines_of(schema: dict[str, Any], indent: str = "") -> list[str]:
    """Return a value of a schema as a sketch, line by line."""
    if "anyOf" in schema:
        shapes = [lines_of(one, indent) for one in schema["anyOf"]]
        found = shapes[0]
        for other in shapes[1:]:
            found = [*found[:-1], f"{found[-1]} or {other[0]}", *other[1:]]
        return found
    if "enum" in schema:
        return [" or ".join(f'"{word}"' for word in schema["enum"])]
    kind = schema.get("type")
    if kind == "array":
        first, *rest = lines_of(schema.get("items", {}), indent)
        return [f"[{first}", *rest[:-1], f"{rest[-1]}, …]"] if rest else [f"[{first}, …]"]
    if kind == "object":
        return list(_object(schema, indent))
    if schema.get("format") == "date-time":
        return ["time"]
    return [{"string": "text", "integer": "integer", "boolean": "true or false",
             "number": "number", None: "any"}.get(kind, str(kind))]


def _object(schema: dict[str, Any], indent: str) -> Iterator[str]:
    properties = schema.get("properties", {})
    required = schema.get("required", ())
    members = {
        f'"{name}"{"" if name in required else "?"}': one for name, one in properties.items()
    }
    others = schema.get("additionalProperties")
    if isinstance(others, dict):
        members["…"] = others
    if not members:
        yield "{}"
        return
    yield "{"
    for name, one in members.items():
        first, *rest = lines_of(one, indent + "  ")
        doc = f"  # {one['description']}" if "description" in one else ""
        yield f"{indent}  {name}: {first}{'' if rest else doc}"
        yield from rest[:-1]
        if rest:
            yield f"{rest[-1]}{doc}"
    yield f"{indent}}}"


def _sketch(schema: dict[str, Any]) -> list[str]:
    return ["```text", *lines_of(schema), "```", ""]


def _operation(path: str, method: str, one: dict[str, Any]) -> Iterator[str]:
    yield from (f"### {method.upper()} {path}", "", one["summary"], "")
    given = [arg for arg in one["parameters"] if arg["in"] == "query"]
    for arg in given:
        shape = " ".join(lines_of(arg["schema"]))
        yield f"- `{arg['name']}=` {arg['description']} ({shape})"
    if given:
        yield ""
    if "requestBody" in one:
        yield from ("Takes:", "")
        yield from _sketch(one["requestBody"]["content"]["application/json"]["schema"])
    for status, said in one["responses"].items():
        for kind, content in said.get("content", {}).items():
            if status != "default":
                yield from (f"{status}, `{kind}`:", "")
                yield from _sketch(content["schema"])
    codes = one["responses"]["default"]["description"].partition("may be ")[2].rstrip(".")
    if codes:
        yield from ("Errors: " + ", ".join(f"`{code}`" for code in codes.split(", ")) + ".", "")


def page() -> str:
    """Return the page."""
    made = openapi.document(endpoints())
    found = [HEAD]
    for tag in made["tags"]:
        found += [f"## {tag['description'].rstrip('.')}", ""]
        for path, methods in made["paths"].items():
            for method, one in methods.items():
                if tag["name"] in one["tags"]:
                    found += _operation(path, method, one)
    return "\n".join(found).rstrip("\n") + "\n"
