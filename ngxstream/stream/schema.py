"""What requests and replies of the API look like: JSON Schema, as OpenAPI 3.1 has it.

A schema is a dict that is printed as it is; the functions here make the usual ones. Tests check
what is sent against them, so a field that is not declared fails (`additionalProperties` is false).
"""

from __future__ import annotations

from typing import Any, Final

Schema = dict[str, Any]

TEXT: Final[Schema] = {"type": "string"}
INT: Final[Schema] = {"type": "integer"}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
BOOL: Final[Schema] = {"type": "boolean"}
TIME: Final[Schema] = {"type": "string", "format": "date-time"}  # RFC 3339, UTC, "Z"


def enum(*words: str) -> Schema:
    """Return the schema of a text that is one of some words."""
    return {"type": "string", "enum": list(words)}


def optional(schema: Schema) -> Schema:
    """Mark a property that may be missing."""
    return {**schema, "x-optional": True}


def nullable(schema: Schema) -> Schema:
    """Return the schema of a value that may be null."""
    return {"anyOf": [schema, {"type": "null"}]}


def obj(doc: str = "", /, **properties: Schema) -> Schema:
    """Return the schema of an object with these properties and no others."""
    required = [name for name, one in properties.items() if not one.get("x-optional")]
    plain = {
        name: {key: value for key, value in one.items() if key != "x-optional"}
        for name, one in properties.items()
    }
    schema: Schema = {"type": "object", "properties": plain, "additionalProperties": False}
    if required:
        schema["required"] = required
    if doc:
        schema["description"] = doc
    return schema


def array(items: Schema) -> Schema:
    """Return the schema of an array."""
    return {"type": "array", "items": items}


def mapping(values: Schema) -> Schema:
    """Return the schema of an object with any names and values of one kind."""
    return {"type": "object", "additionalProperties": values}


def either(*schemas: Schema) -> Schema:
    """Return the schema of a value that is of one of some kinds."""
    return {"anyOf": list(schemas)}


def partial(schema: Schema) -> Schema:
    """Return the schema of an object of which a request may ask for some members alone."""
    return {name: value for name, value in schema.items() if name != "required"}


def described(schema: Schema, doc: str) -> Schema:
    """Add a description."""
    return {**schema, "description": doc}
