"""YAML text -> plain values, and where each of them stands in the file.

Errors are collected, so that one start shows them all. `${VAR}`, `${VAR:-default}` and `${file:secret.txt}` are replaced in
scalars after parsing: quoting is safe, and what an environment variable holds can never become YAML.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from .errors import ConfigError

try:
    from yaml import CSafeLoader as _Loader
except ImportError:  # a PyYAML built without libyaml
    from yaml import SafeLoader as _Loader  # type: ignore[assignment]

OptionPath = tuple[str | int, ...]
"""An option's place in the configuration: `("hooks", 1, "endpoint")`."""

_MAX_NODES = 10_000
"""More than any configuration has, and soon reached by aliases of aliases of aliases."""
_MAX_DEPTH = 30


def dotted(path: OptionPath) -> str:
    """`("hooks", 1, "endpoint")` -> `hooks[1].endpoint`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


@dataclass(frozen=True, slots=True)
class Places:
    """Where the options of one file stand. An option stands where its key does, a list's item where it begins."""

    source: str = "defaults"
    """The file's name, as messages show it."""
    marks: Mapping[OptionPath, tuple[int, int]] = field(default_factory=dict)
    """Line and column, both from 1."""

    def where(self, path: OptionPath) -> str:
        """`file:line:column` of an option, or of the nearest one around it; the file alone for options that are not in it."""
        while path and path not in self.marks:
            path = path[:-1]
        mark = self.marks.get(path)
        return f"{self.source}:{mark[0]}:{mark[1]}" if mark else self.source

    def error(self, path: OptionPath, what: str) -> ConfigError:
        """An error of the option at `path`."""
        return ConfigError(self.where(path), dotted(path), what)


@dataclass(frozen=True, slots=True)
class Document:
    """A file that has been read. Values that could not be had are left out of `data`, with an error for each."""

    data: object
    places: Places
    errors: tuple[ConfigError, ...]


def read_document(text: str, source: str, directory: Path, environ: Mapping[str, str]) -> Document:
    """Read YAML. `${file:...}` is relative to `directory`. Raises `ConfigError` when it is not YAML at all."""
    try:
        _check_depth(text)
        loader = _Loader(text)
        node = loader.get_single_node()
        reader = _Reader(loader, source, Interpolation(directory, environ))
        data = None if node is None else reader.value(node, ())
    except yaml.MarkedYAMLError as error:
        raise _not_yaml(error, text, source) from None
    except yaml.reader.ReaderError as error:
        raise ConfigError(source, "", f"not valid YAML: {error.reason}") from None
    return Document(data, Places(source, reader.marks), tuple(reader.errors))


def _check_depth(text: str) -> None:
    """libyaml's composer recurses and would end the process; reading events does not."""
    depth = 0
    for event in yaml.parse(text, _Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=event.start_mark)  # type: ignore[arg-type]  # the C loader has marks of its own


def _not_yaml(error: yaml.MarkedYAMLError, text: str, source: str) -> ConfigError:
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return ConfigError(source, "", f"not valid YAML: {error.problem}")
    lines = text.splitlines()
    here = lines[mark.line][mark.column : mark.column + 1] if mark.line < len(lines) else ""
    problem = "a tab cannot indent; use spaces" if here == "\t" else error.problem
    if "${" in (lines[mark.line] if mark.line < len(lines) else ""):
        problem = f"{problem} (between {{ }} a ${{...}} has to be in quotes)"
    return ConfigError(f"{source}:{mark.line + 1}:{mark.column + 1}", "", f"not valid YAML: {problem}")


class _Missing:
    """Stands for a value that could not be had; an error says why."""


_MISSING = _Missing()


class _Reader:
    """Makes plain values of nodes."""

    def __init__(self, loader: Any, source: str, interpolation: Interpolation) -> None:
        self.loader = loader
        self.source = source
        self.interpolation = interpolation
        self.marks: dict[OptionPath, tuple[int, int]] = {}
        self.errors: list[ConfigError] = []
        self.nodes = 0

    def refuse(self, node: Node, path: OptionPath, what: str) -> _Missing:
        mark = node.start_mark
        self.errors.append(ConfigError(f"{self.source}:{mark.line + 1}:{mark.column + 1}", dotted(path), what))
        return _MISSING

    def value(self, node: Node, path: OptionPath) -> object:
        self.nodes += 1
        if self.nodes > _MAX_NODES or len(path) > _MAX_DEPTH:
            problem = "too many values; does an alias contain itself, or aliases of aliases?"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        self.marks.setdefault(path, (node.start_mark.line + 1, node.start_mark.column + 1))
        match node:
            case MappingNode():
                return self.mapping(node, path)
            case SequenceNode():
                items = [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
                return [item for item in items if item is not _MISSING]
            case ScalarNode():
                return self.scalar(node, path)
            case _:
                raise AssertionError(f"no YAML node: {node!r}")

    def mapping(self, node: MappingNode, path: OptionPath) -> object:
        values: dict[str, object] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            if not isinstance(key_node, ScalarNode) or not isinstance(key, str):
                self.refuse(key_node, path, "a key must be a plain word")
                continue
            if key == "<<" and not key_node.style:
                self.refuse(key_node, path, "merging by << is not supported; write the options out")
                continue
            here = (*path, key)
            line, column = key_node.start_mark.line + 1, key_node.start_mark.column + 1
            if key in lines:
                self.refuse(key_node, here, f"given twice, first in line {lines[key]}; keep one of them")
                continue
            lines[key] = line
            self.marks[here] = (line, column)
            value = self.value(value_node, here)
            if value is not _MISSING:
                values[key] = value
        return values

    def scalar(self, node: ScalarNode, path: OptionPath) -> object:
        text: str = node.value
        plain = not node.style  # None, or with libyaml ""
        replaced = "${" in text and "\0" not in text
        if replaced:
            try:
                text = self.interpolation.replace(text)
            except InterpolationError as error:
                return self.refuse(node, path, str(error))
        if "\0" in text:  # no path, address or header can hold one, and whatever is given it would fail in its own way
            return self.refuse(node, path, "holds a NUL character; leave it out")
        if replaced:
            # What was replaced stays text, which a typed option reads as its own type: a password of digits is no number.
            # Only "nothing" is said by the text itself.
            empty = plain and self.loader.resolve(ScalarNode, text, (True, False)) == "tag:yaml.org,2002:null"
            return None if empty else text
        try:
            return self.loader.construct_object(node)
        except yaml.constructor.ConstructorError:
            return self.refuse(node, path, f"the tag {node.tag} is not supported; leave it out")
        except ValueError:
            return self.refuse(node, path, f"not a valid {node.tag.rpartition(':')[2]}; put text in quotes")


class InterpolationError(ValueError):
    """A `${...}` that cannot be replaced; says why, and never what a secret holds."""


@dataclass(frozen=True, slots=True)
class Interpolation:
    """Replaces `${VAR}`, `${VAR:-default}`, `${file:path}`; `$${` stays as `${`."""

    directory: Path
    environ: Mapping[str, str]

    def replace(self, text: str) -> str:
        """`text` with everything replaced. Raises `InterpolationError`."""
        return _INTERPOLATION.sub(self._one, text)

    def _one(self, match: re.Match[str]) -> str:
        if match["escaped"]:
            return "${"
        body = match["body"]
        if body is None:
            raise InterpolationError("${ without its }; write $${ for a literal ${")
        if body.startswith("file:"):
            return self._file(body.removeprefix("file:"))
        name, default_given, default = body.partition(":-")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise InterpolationError("cannot be understood; write ${VAR}, ${VAR:-default}, ${file:path}, or $${ for a literal ${")
        value = self.environ.get(name)
        if default_given:
            return value or default
        if value is None:
            raise InterpolationError(f"the environment variable {name} is not set; set it, or write ${{{name}:-default}}")
        return value

    def _file(self, name: str) -> str:
        path = self.directory / name
        try:
            return path.read_text("utf-8").rstrip("\r\n")
        except OSError as error:
            raise InterpolationError(f"cannot read the file {path}: {error.strerror or error}") from None
        except UnicodeDecodeError:
            raise InterpolationError(f"the file {path} is not UTF-8 text") from None


_INTERPOLATION = re.compile(r"(?P<escaped>\$\$\{)|\$\{(?:(?P<body>[^}]*)\})?")
