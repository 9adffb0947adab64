"""What README.md tells a stranger to type works."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from tests.needs import need
from tests.server.running import serving, tusd

README = (Path(__file__).parents[2] / "README.md").read_text()


def block(language: str, having: str) -> str:
    """The code block of the README that has a text in it."""
    blocks: list[str] = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return next(text for text in blocks if having in text)


def test_uploads_with_curl(tmp_path: Path) -> None:
    need("curl", how="apt install curl")
    (tmp_path / "big.iso").write_bytes(os.urandom(3_000_000))
    with serving(tmp_path, "server: {listen: '127.0.0.1:0'}") as server:
        script = block("sh", "curl").replace("http://127.0.0.1:1080/files/", server.url)
        # The first PATCH ends early, as with Ctrl-C.
        script = script.replace("patch 0 ", '(curl() { command curl --limit-rate 1M --max-time 1 "$@"; }; patch 0) || echo cut #')
        script = script.replace("--limit-rate 20M", "")
        result = subprocess.run(
            ["bash", "-eu", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
    assert (result.returncode, result.stdout) == (0, "cut\nevery byte is there\n"), result.stderr


def test_the_configuration_is_good(tmp_path: Path) -> None:
    (tmp_path / "tusd.yaml").write_text(block("yaml", "storage:"))
    result = tusd("check", "-c", "tusd.yaml", cwd=tmp_path)
    assert (result.stderr, result.returncode) == ("", 0)


def test_the_plugin_works(tmp_path: Path) -> None:
    (tmp_path / "announcing.py").write_text(block("python", "class Announcing"))
    named = re.search(r"`(plugins: .*)`", README)
    assert named is not None
    with serving(tmp_path, f"server: {{listen: '127.0.0.1:0'}}\n{named[1]}\n") as server:
        server.create(42)
        server.stop()
    assert "a new upload of 42 bytes" in (tmp_path / "out").read_text()


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(((?!https?:)[^)#]+)\)", README))))
def test_links_lead_somewhere(link: str) -> None:
    assert (Path(__file__).parents[2] / link).exists()
