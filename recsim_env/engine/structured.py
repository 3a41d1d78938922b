"""Words under a schema: the engine writes JSON that fits, and what comes back is checked all the same.

An engine knows the JSON schema alone and checks with :func:`read_reply`; whoever asked knows the pydantic class that
gave the schema and checks with :func:`validated`. A reply that does not fit keeps its raw text, and says why.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from recsim_env.records import Completion

M = TypeVar("M", bound=BaseModel)

LENGTH, INVALID_JSON, INVALID_SCHEMA, EMPTY = "length", "invalid_json", "invalid_schema", "empty_text"
"""Kinds of unusable replies, as counted in an engine's usage."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")
_NO_CHARACTER = re.compile("\ufffd+")

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "integer": (int,), "number": (int, float),
    "boolean": (bool,), "null": (type(None),),
}  # fmt: skip


def read_reply(text: str, schema: Mapping[str, Any] | None, finish_reason: str) -> tuple[Any, str, str | None]:
    """What a generated text holds.

    Args:
        text: The raw text.
        schema: JSON schema that it must fit, or None for free text.
        finish_reason: ``"length"`` where the text was cut.

    Returns:
        The parsed value (None for free text or a bad reply), the kind of what is wrong ("" if nothing), and what is
        wrong in words (None if nothing).
    """
    if finish_reason == "length":
        return None, LENGTH, "the reply was cut at max_tokens"
    if not text.strip():
        return None, EMPTY, "the reply is empty"
    if schema is None:
        return None, "", None
    try:
        value = json.loads(plain(text))
    except ValueError as error:
        return None, INVALID_JSON, f"the reply is no JSON: {error}"
    problem = misfit(value, schema)
    return (value, "", None) if problem is None else (None, INVALID_SCHEMA, problem)


def plain(text: str) -> str:
    """The text with a space for every run of control characters, and one mark for every run of replacement marks.

    xgrammar compiles ``maxLength`` to a rule that lets raw control characters into strings, and then the text is no
    JSON. (Its patterns with bounded repetition are no way out: in 0.2.7 a compiler that caches refuses the second one.)
    It also counts four bytes that are no character as one character, of which decoding makes four marks, and then the
    string is too long.
    """
    return _NO_CHARACTER.sub("\ufffd", _CONTROL.sub(" ", text))


def validated(completion: Completion, kind: type[M]) -> tuple[M | None, Completion]:
    """Checks a reply with the pydantic class that gave its schema.

    Returns:
        The object and the completion; or None and the completion with ``error`` set, its raw text kept.
    """
    if completion.error is not None:
        return None, completion
    try:
        return kind.model_validate_json(plain(completion.text)), completion
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return None, replace(completion, parsed=None, error=f"{place + ': ' if place else ''}{first['msg']}")


def misfit(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any] | None = None, at: str = "") -> str | None:
    """The first thing in which a value does not fit a JSON schema, None if it fits.

    Knows what pydantic writes for plain models: types, ``properties``, ``required``, ``additionalProperties``,
    ``items``, ``enum``, ``const``, ``anyOf``, ``$ref``, bounds of numbers, lengths and ``pattern``. Other keywords
    are not looked at.
    """
    root = schema if root is None else root
    place = at or "the reply"
    if "$ref" in schema:
        return misfit(value, _referred(str(schema["$ref"]), root), root, at)
    if "anyOf" in schema:
        problems = [misfit(value, option, root, at) for option in schema["anyOf"]]
        return None if None in problems else problems[0]
    if "const" in schema and value != schema["const"]:
        return f"{place} must be {schema['const']!r}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{place} must be one of {schema['enum']}"
    kind = schema.get("type")
    if kind in _TYPES and not _is(value, kind):
        return f"{place} must be {kind}, not {type(value).__name__}"
    return _bounds(value, schema, place) or _parts(value, schema, root, at)


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, _TYPES[kind])


def _referred(reference: str, root: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Any = root
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return dict(found)


def _bounds(value: Any, schema: Mapping[str, Any], place: str) -> str | None:
    if isinstance(value, str) and "pattern" in schema and not re.search(str(schema["pattern"]), value):
        return f"{place} does not match {schema['pattern']!r}"
    if isinstance(value, (str, list)):
        size: float = len(value)
        low, high = ("minLength", "maxLength") if isinstance(value, str) else ("minItems", "maxItems")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        size, low, high = value, "minimum", "maximum"
        if size <= schema.get("exclusiveMinimum", -math.inf) or size >= schema.get("exclusiveMaximum", math.inf):
            return f"{place} is {value}, out of bounds"
    else:
        return None
    if not schema.get(low, -math.inf) <= size <= schema.get(high, math.inf):
        return f"{place} breaks {low} {schema.get(low)} or {high} {schema.get(high)}"
    return None


def _parts(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], at: str) -> str | None:
    if isinstance(value, list) and "items" in schema:
        problems = (misfit(part, schema["items"], root, f"{at}[{i}]") for i, part in enumerate(value))
        return next((problem for problem in problems if problem), None)
    if not isinstance(value, dict):
        return None
    known: Mapping[str, Any] = schema.get("properties", {})
    absent = [name for name in schema.get("required", ()) if name not in value]
    if absent:
        return f"{at + ': ' if at else ''}{absent[0]!r} is missing"
    for name, part in value.items():
        inner = known.get(name, schema.get("additionalProperties", True))
        place = f"{at}.{name}" if at else name
        if inner is False:
            return f"{place} is not allowed"
        problem = misfit(part, inner, root, place) if isinstance(inner, Mapping) else None
        if problem:
            return problem
    return None
