"""What the core does with any model of options, its own and those of plugins: say what is wrong, and show values."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Annotated, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from .errors import ConfigError
from .yaml_marks import OptionPath

MASK = "********"
"""Stands for a secret."""

_SHAPES: Mapping[str, str] = types.MappingProxyType(
    {
        "model_type": "a mapping of options",
        "dict_type": "a mapping",
        "list_type": "a list",
        "tuple_type": "a list",
        "set_type": "a list",
        "frozen_set_type": "a list",
    }
)
"""pydantic's word for what a value is not -> ours."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` (did you mean "directory"?)`, or nothing."""
    close = get_close_matches(name.lower(), list(known), n=1)
    return f' (did you mean "{close[0]}"?)' if close else ""


def option_errors(
    error: ValidationError, model: type[BaseModel], data: object, refuse: Callable[[OptionPath, str], ConfigError]
) -> list[ConfigError]:
    """What pydantic found wrong in `data`, in our words, one error for each option. Values are never shown: one may be a secret."""
    found: dict[OptionPath, list[str]] = {}
    for detail in error.errors(include_url=False, include_input=False, include_context=False):
        kind, loc = detail["type"], detail["loc"]
        path = _within(data, loc)
        if kind == "missing":
            path, what = (*path, loc[-1]), "missing; it has no default"
        elif kind == "extra_forbidden":
            known = _fields(model, path[:-1])
            what = "unknown option" + (did_you_mean(str(path[-1]), known) or _list(known))
        elif kind in _SHAPES:
            what = f"must be {_SHAPES[kind]}"
        else:
            what = detail["msg"].removeprefix("Value error, ").removeprefix("Input ").removeprefix("List ")
        found.setdefault(path, []).append(what)
    return [refuse(path, " or ".join(dict.fromkeys(whats))) for path, whats in found.items()]


def shown(options: BaseModel) -> dict[str, object]:
    """The values of a model as plain data; what stands in a `plugin.Secret` is masked."""
    properties = type(options).model_json_schema()["properties"] if type(options).model_fields else {}
    dumped = options.model_dump(mode="json")
    return {name: _shown(getattr(options, name), dumped[name], secret=_is_secret(properties.get(name))) for name in dumped}


def _shown(value: object, dumped: object, *, secret: bool) -> object:
    if isinstance(value, BaseModel):
        return shown(value)
    if isinstance(value, dict) and isinstance(dumped, dict):
        return {key: _shown(inner, dumped[key], secret=secret) for key, inner in value.items()}
    if isinstance(value, list | tuple) and isinstance(dumped, list):
        return [_shown(inner, other, secret=secret) for inner, other in zip(value, dumped, strict=True)]
    return MASK if secret and value else dumped


def _is_secret(schema: object) -> bool:
    """Whether `plugin.Secret` is anywhere in a property's JSON schema, such as in a list or a union."""
    if isinstance(schema, dict):
        return schema.get("writeOnly") is True or any(_is_secret(inner) for inner in schema.values())
    return isinstance(schema, list) and any(_is_secret(inner) for inner in schema)


def _list(names: list[str]) -> str:
    return f"; the options here are {', '.join(names)}" if names else "; there are no options here"


def _within(data: object, loc: OptionPath) -> OptionPath:
    """The part of pydantic's `loc` that is in the data; the rest names members of unions. One value may stand for a list of it."""
    path: OptionPath = ()
    for part in loc:
        if part == 0 and isinstance(data, dict):
            continue
        if isinstance(data, dict) and part in data:
            data = data[part]
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            break
        path = (*path, part)
    return path


def _fields(model: type[BaseModel], path: OptionPath) -> list[str]:
    """The options that exist where `path` points to within `model`."""
    models = [model]
    for part in path:
        if isinstance(part, str):
            annotations = [found.model_fields[part].annotation for found in models if part in found.model_fields]
            models = [inner for annotation in annotations for inner in _models(annotation)]
    return [field.alias or name for found in models for name, field in found.model_fields.items()]


def _models(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, types.UnionType, Annotated, list, tuple, dict):
        return [model for inner in get_args(annotation) for model in _models(inner)]
    return []
