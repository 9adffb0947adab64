"""The configuration as it takes effect, told without its secrets."""

from __future__ import annotations

from pathlib import Path

import yaml

from ..config import SEAMS, SECTIONS, SINGLE_SEAMS, Config
from ..options import MASK, shown
from ..registry import Registry


def effective(config: Config, registry: Registry) -> dict[str, object]:
    """All sections with their defaults. Masked are `plugin.Secret` options and what `${file:...}` brought in."""
    found: dict[str, object] = {name: shown(getattr(config, name)) for name in SECTIONS}
    for seam in SEAMS:
        entries = [{"use": loaded.use, **shown(loaded.options)} for loaded in registry.loaded if loaded.seam == seam]
        found[seam] = entries[0] if seam in SINGLE_SEAMS else entries
    written = yaml.safe_load(Path(config.source).read_bytes()) if config.places.marks else None
    masked = _mask_files(found, written)
    assert isinstance(masked, dict)
    return masked


def where_uploads_go(registry: Registry) -> str:
    """`storage: file in /srv/data`: the first thing that whoever starts a server wants to know."""
    loaded = next(loaded for loaded in registry.loaded if loaded.seam == "storage")
    directory = getattr(loaded.options, "directory", None)
    return f"storage: {loaded.use}" + (f" in {Path(directory).absolute()}" if directory else "")


def _mask_files(value: object, written: object) -> object:
    """`value`, masked wherever the file has a `${file:...}`."""
    if isinstance(written, str) and "${file:" in written:
        return MASK
    if isinstance(value, dict) and isinstance(written, dict):
        return {key: _mask_files(inner, written.get(key)) for key, inner in value.items()}
    if isinstance(value, list) and isinstance(written, list) and len(value) == len(written):
        return [_mask_files(inner, other) for inner, other in zip(value, written, strict=True)]
    return value
