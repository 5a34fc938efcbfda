"""A value that fits a JSON schema, for requests that ask for structured output.

What may live here: a pure function over the common keywords of JSON Schema: types, ``properties`` and ``required``,
``items``, ``enum``, ``const``, ``anyOf`` / ``oneOf`` / ``allOf``, references into the schema itself, and bounds on
numbers, lengths and counts. A ``pattern`` or ``format`` is not obeyed.
"""

from __future__ import annotations

import math
import random
from typing import Any

_DEEPEST = 12
_NO_SCHEMA = {"type": "object", "properties": {"answer": {"type": "string"}}}
_WORDS = ("amber", "birch", "cedar", "delta", "ember", "flint", "grove", "harbour", "ivory", "juniper")


def fitting(schema: Any, seed: int) -> Any:
    """A value that fits ``schema``; the same one for the same seed. Without a schema it is an object with an answer."""
    root = schema if isinstance(schema, dict) and schema else _NO_SCHEMA
    return _value(root, root, random.Random(seed), 0)  # noqa: S311 - made-up data is no secret


def _value(schema: Any, root: dict[str, Any], dice: random.Random, depth: int) -> Any:
    if not isinstance(schema, dict):
        return None
    schema = _resolved(schema, root, depth)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return dice.choice(schema["enum"])
    for key in ("anyOf", "oneOf"):
        if schema.get(key):
            # Deep down only the alternative that ends (null, a plain value) keeps a recursive schema finite.
            options = schema[key]
            return _value(options[-1 if depth > _DEEPEST // 2 else 0], root, dice, depth + 1)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = kind[0]
    if kind == "object":
        return _object(schema, root, dice, depth)
    if kind == "array":
        least = int(schema.get("minItems", 0))
        most = int(schema.get("maxItems", max(2, least)))
        count = least if depth > _DEEPEST // 2 else min(max(2, least), most)
        return [_value(schema.get("items", {}), root, dice, depth + 1) for _ in range(count)]
    if kind in ("integer", "number"):
        return _number(schema, dice, whole=kind == "integer")
    if kind == "boolean":
        return dice.random() < 0.5  # noqa: PLR2004 - a coin
    if kind == "null":
        return None
    text = dice.choice(_WORDS)
    least, most = int(schema.get("minLength", 0)), schema.get("maxLength")
    return (text * (1 + least // len(text)) if len(text) < least else text)[:most]


def _object(schema: dict[str, Any], root: dict[str, Any], dice: random.Random, depth: int) -> dict[str, Any]:
    properties: dict[str, Any] = schema.get("properties", {})
    required = set(schema.get("required", ()))
    names = [name for name in properties if depth <= _DEEPEST // 2 or name in required]
    if depth > _DEEPEST:
        return {}
    return {name: _value(properties[name], root, dice, depth + 1) for name in names}


def _number(schema: dict[str, Any], dice: random.Random, *, whole: bool) -> float:
    step = 1 if whole else 1e-3
    low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
    low = max(low, schema.get("exclusiveMinimum", -math.inf) + step)
    high = min(high, schema.get("exclusiveMaximum", math.inf) - step)
    if math.isinf(low):
        low = 0 if high >= 0 else high - 100
    high = min(high, low + 100)
    value: float = dice.randint(math.ceil(low), math.floor(high)) if whole else dice.uniform(low, high)
    if multiple := schema.get("multipleOf"):
        value = math.ceil(low / multiple) * multiple
    return value


def _resolved(schema: dict[str, Any], root: dict[str, Any], depth: int) -> dict[str, Any]:
    """The schema with its reference followed and its ``allOf`` merged in."""
    for _ in range(_DEEPEST):
        reference = schema.get("$ref")
        if not isinstance(reference, str):
            break
        found: Any = root
        for part in reference.removeprefix("#").strip("/").split("/"):
            if part:
                found = found.get(part, {}) if isinstance(found, dict) else {}
        schema = {**(found if isinstance(found, dict) else {}), **_without(schema, "$ref")}
    if schema.get("allOf") and depth <= _DEEPEST:
        merged = _without(schema, "allOf")
        for part in schema["allOf"]:
            addition = _resolved(part, root, depth + 1) if isinstance(part, dict) else {}
            properties = {**merged.get("properties", {}), **addition.get("properties", {})}
            required = [*merged.get("required", ()), *addition.get("required", ())]
            merged = {**merged, **addition}
            if properties:
                merged |= {"properties": properties, "required": required}
        schema = merged
    return schema


def _without(schema: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in schema.items() if name != key}
