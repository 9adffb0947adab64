"""JSON Schema of the configuration with the plugins that are installed, for completion in editors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from ..config import SEAMS, SECTIONS, SINGLE_SEAMS
from ..plugin import Options

_INTERPOLATED = {"type": "string", "pattern": r"\$\{"}
"""Stands for a value of any type."""
_FILE = {
    "type": "object",
    "description": "A plugin of one file.",
    "properties": {"use": {"type": "string", "pattern": r"\.py(:\w+)?$"}},
    "required": ["use"],
}


def configuration_schema(plugins: Mapping[str, Mapping[str, tuple[type[Options], str]]]) -> dict[str, Any]:
    """The schema; `plugins` has seam -> name -> the model of its options and its summary."""
    definitions: dict[str, Any] = {"interpolated": _INTERPOLATED}
    properties = {name: _model(model, name, definitions) for name, model in SECTIONS.items()}
    for seam in SEAMS:
        choices = [
            _entry(name, summary, _model(model, f"{seam}.{name}", definitions))
            for name, (model, summary) in plugins.get(seam, {}).items()
        ]
        one = {"anyOf": [*choices, _FILE]}
        properties[seam] = one if seam in SINGLE_SEAMS else {"type": "array", "items": one}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration of tusd",
        "type": "object",
        "properties": {name: {"anyOf": [schema, {"type": "null"}]} for name, schema in properties.items()},
        "additionalProperties": False,
        "$defs": definitions,
    }


def _model(model: type[BaseModel], prefix: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """A model's schema; what it refers to goes to `definitions` under names of its own."""
    schema = model.model_json_schema(ref_template=f"#/$defs/{prefix}.{{model}}")
    for name, inner in schema.pop("$defs", {}).items():
        definitions[f"{prefix}.{name}"] = _or_interpolated(inner)
    return _or_interpolated(schema)


def _entry(name: str, summary: str, schema: dict[str, Any]) -> dict[str, Any]:
    """A plugin's options together with its `use`."""
    return {
        **schema,
        "description": summary,
        "properties": {"use": {"const": name}, **schema.get("properties", {})},
        "required": ["use", *schema.get("required", [])],
    }


def _or_interpolated(schema: dict[str, Any]) -> dict[str, Any]:
    """Every option may be written as `${VAR}`; those that are no text need to say so."""
    properties: dict[str, Any] = {}
    for name, given in schema.get("properties", {}).items():
        about = {key: given[key] for key in ("description", "default", "title") if key in given}
        plain_text = given.get("type") == "string" and not given.keys() & {"enum", "const", "pattern", "format"}
        properties[name] = given if plain_text else {**about, "anyOf": [given, {"$ref": "#/$defs/interpolated"}]}
    return {**schema, "properties": properties} if "properties" in schema else schema
