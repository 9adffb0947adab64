"""Plugins of one file: `use: ./my_plugin.py`, or `./my_plugin.py:MyClass` where the file has several."""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path
from types import ModuleType

_USE = re.compile(r"(?P<file>.+\.py)(?::(?P<name>\w+))?", re.ASCII)


def is_file(use: str) -> bool:
    """Whether a `use` names a file instead of an installed plugin."""
    return _USE.fullmatch(use) is not None


def load_file(use: str, base: Path) -> tuple[Path, type]:
    """The plugin class in a file. Raises `ImportError` when there is none, and whatever executing the file raises."""
    match = _USE.fullmatch(use)
    assert match is not None, "is_file() was asked"
    path = base / match["file"]
    if not path.is_file():
        raise ImportError(f"there is no file {path}")
    return path, _chosen(_module(path), match["name"])


def _module(path: Path) -> ModuleType:
    """The file's module, executed once however often it is named, and again when it has changed."""
    source = path.read_bytes()
    digest = hashlib.sha256(str(path.resolve()).encode() + b"\0" + source).hexdigest()[:12]
    name = f"tusd_file_plugin_{re.sub(r'[^0-9A-Za-z_]', '_', path.stem)}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # pydantic and dataclasses look for it there
    try:
        # Executed here, because an import would leave __pycache__ beside the configuration.
        exec(compile(source, path, "exec", dont_inherit=True), vars(module))
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _chosen(module: ModuleType, name: str | None) -> type:
    if name is not None:
        chosen = getattr(module, name, None)
        if not isinstance(chosen, type):
            raise ImportError(f"there is no class {name} in it")
        return chosen
    found: list[type] = [value for value in vars(module).values() if _is_plugin(value, module)]
    if not found:
        raise ImportError("there is no public class with a method marked @plugin.hookimpl in it")
    if len(found) > 1:
        names = ", ".join(value.__name__ for value in found)
        raise ImportError(f"there are several plugins in it ({names}); append the name of one, such as :{found[0].__name__}")
    return found[0]


def _is_plugin(value: object, module: ModuleType) -> bool:
    if not isinstance(value, type) or value.__module__ != module.__name__ or value.__name__.startswith("_"):
        return False
    return any(getattr(value, name, None) is not None and hasattr(getattr(value, name), "tusd_impl") for name in dir(value))
