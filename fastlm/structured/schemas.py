"""JSON schemas of dataclasses."""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Union

from fastlm.arguments import shown
from fastlm.errors import ParameterError

Schema = dict[str, Any]
SIMPLE: dict[object, Schema] = {
    Any: {},
    object: {},
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    None: {"type": "null"},
    type(None): {"type": "null"},
    list: {"type": "array"},
    tuple: {"type": "array"},
    dict: {"type": "object"},
}
LISTS = (list, Sequence, Iterable, set, frozenset)


def schema_of_dataclass(kind: type, name: str) -> Schema:
    """The schema of a dataclass's fields: those without a default are required, and there are no others.

    Fields may be str, int, float, bool, None, Any, Literal, enumerations, unions, lists, tuples, dictionaries with
    string keys, and dataclasses.

    Raises
    ------
    ParameterError
        It is no dataclass, or a field has another type; the text names it.
    """
    if not dataclasses.is_dataclass(kind):
        raise ParameterError(f"{name}: {kind.__name__} is no dataclass, and has no model_json_schema() as pydantic's")
    definitions: dict[type, Schema] = {}
    _define(kind, definitions, name)
    places = {
        f"{i}.{one.__name__}" if i else one.__name__: schema for i, (one, schema) in enumerate(definitions.items())
    }
    return {"$ref": f"#/$defs/{kind.__name__}", "$defs": places}


def _define(kind: type, definitions: dict[type, Schema], name: str) -> str:
    """Where the schema of a dataclass stands, which is made if it is not there yet."""
    if kind not in definitions:
        schema: Schema = {"type": "object"}
        definitions[kind] = schema
        try:
            hints = typing.get_type_hints(kind)
        except (NameError, TypeError) as error:
            raise ParameterError(f"{name}: the types of {kind.__name__} cannot be told: {error}") from error
        fields = [field for field in dataclasses.fields(kind) if field.init]
        schema["properties"] = {f.name: _schema(hints[f.name], definitions, f"{name}: {f.name}") for f in fields}
        schema["required"] = [f.name for f in fields if _is_required(f)]
        schema["additionalProperties"] = False
    at = list(definitions).index(kind)
    return f"#/$defs/{at}.{kind.__name__}" if at else f"#/$defs/{kind.__name__}"


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _schema(hint: Any, definitions: dict[type, Schema], name: str) -> Schema:
    """The schema of a type."""
    origin, of = typing.get_origin(hint), typing.get_args(hint)
    if origin in (tuple, dict, Mapping, *LISTS) and not of and hint != tuple[()]:
        raise ParameterError(
            f"{name}: {shown(hint)} does not say of what: write list[str], dict[str, int], tuple[int, ...]"
        )
    if origin is typing.Annotated:
        return _schema(of[0], definitions, name)
    if origin is Literal:
        return {"enum": list(of)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema(one, definitions, name) for one in of]}
    if origin is tuple and not (len(of) == 2 and of[1] is Ellipsis):
        each = [_schema(one, definitions, name) for one in of]
        return {"type": "array", "prefixItems": each, "items": False, "minItems": len(each)}
    if origin in (tuple, *LISTS):
        return {"type": "array", "items": _schema(of[0], definitions, name)}
    if origin in (dict, Mapping) and of[0] is str:
        return {"type": "object", "additionalProperties": _schema(of[1], definitions, name)}
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return {"$ref": _define(hint, definitions, name)}
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return {"enum": [member.value for member in hint]}
    if origin is None and isinstance(hint, (type, types.NoneType)) and hint in SIMPLE:
        return dict(SIMPLE[hint])
    if hint is Any:
        return {}
    raise ParameterError(f"{name}: {shown(hint)} has no JSON schema here: write the schema as a dict")
