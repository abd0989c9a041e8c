"""What a value breaks of a JSON Schema: the keywords that stream/schema.py uses, no others."""

import re
from collections.abc import Iterator
from typing import Any

from ngxstream.core import clock

TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "integer": (int,),
    "number": (int, float), "boolean": (bool,), "null": (type(None),),
}
KNOWN = {
    "type", "properties", "required", "additionalProperties", "items", "enum", "minimum", "maximum",
    "anyOf", "format", "description",
}
FORMATS = {"date-time": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")}


class UnknownKeywordError(Exception):
    """A schema says what this validator does not know."""


def faults(value: Any, schema: dict[str, Any], place: str = "$") -> Iterator[str]:
    """Yield what is wrong with a value. Raises: UnknownKeywordError"""
    if unknown := [word for word in schema if word not in KNOWN and not word.startswith("x-")]:
        raise UnknownKeywordError(f"{place}: {unknown}")
    if schema.get("format") not in (None, *FORMATS):
        raise UnknownKeywordError(f"{place}: format {schema['format']}")
    if "anyOf" in schema:
        tried = [list(faults(value, one, place)) for one in schema["anyOf"]]
        if all(tried):
            yield f"{place}: none of {tried}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{place}: {value!r} is none of {schema['enum']}"
    if "type" in schema and not _is_of(value, schema["type"]):
        yield f"{place}: {value!r} is no {schema['type']}"
        return
    if isinstance(value, dict):
        yield from _object(value, schema, place)
    elif isinstance(value, list):
        for n, item in enumerate(value):
            yield from faults(item, schema.get("items", {}), f"{place}[{n}]")
    elif isinstance(value, str):
        yield from _text(value, schema, place)
    elif value is not None and not schema.get("minimum", value) <= value <= schema.get(
        "maximum", value
    ):
        yield f"{place}: {value} is out of bounds"


def _is_of(value: Any, wanted: str | list[str]) -> bool:
    names = [wanted] if isinstance(wanted, str) else wanted
    kinds = tuple(kind for name in names for kind in TYPES[name])
    return isinstance(value, kinds) and (not isinstance(value, bool) or bool in kinds)


def _object(value: dict[str, Any], schema: dict[str, Any], place: str) -> Iterator[str]:
    properties = schema.get("properties", {})
    others = schema.get("additionalProperties", True)
    yield from (f"{place}: no {name}" for name in schema.get("required", ()) if name not in value)
    for name, one in value.items():
        if name in properties:
            yield from faults(one, properties[name], f"{place}.{name}")
        elif others is False:
            yield f"{place}: {name} is not declared"
        elif others is not True:
            yield from faults(one, others, f"{place}.{name}")


def _text(value: str, schema: dict[str, Any], place: str) -> Iterator[str]:
    if "format" in schema:
        try:
            clock.parse_rfc3339(value)
            is_time = FORMATS[schema["format"]].fullmatch(value) is not None
        except ValueError:
            is_time = False
        if not is_time:
            yield f"{place}: {value!r} is no {schema['format']}"


def check(schema: dict[str, Any]) -> None:
    """Look at a schema without a value. Raises: UnknownKeywordError"""
    list(faults(None, {word: one for word, one in schema.items() if word != "type"}))
    below = [*schema.get("properties", {}).values(), *schema.get("anyOf", ())]
    below += [one for word in ("items", "additionalProperties")
              if isinstance(one := schema.get(word), dict)]
    for one in below:
        check(one)
