"""The pages about proxies: their files are whole, and what they say of time-outs and sizes fits the server's defaults."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from tests.server.running import tusd

from tusd.config import ServerSection, UploadsSection

from .conftest import PROXIES
from .pages import HOWTO, file_of
from .proxy import Certificate, Haproxy, Nginx, Proxy

BUFFERS = {Nginx: r"large_client_header_buffers 4 (\d+)k|proxy_buffer_size (\d+)k", Haproxy: r"tune\.bufsize (\d+)"}


def numbers(kind: type[Proxy], pattern: str) -> list[int]:
    """What the page's file has in the groups of a pattern."""
    return [int(number) for match in re.finditer(pattern, file_of(kind.page, kind.title)) for number in match.groups() if number]


@pytest.mark.parametrize("title", ["tusd.yaml", "two servers"])
def test_the_servers_file_is_good(kind: type[Proxy], tmp_path: Path, title: str) -> None:
    (tmp_path / "tusd.yaml").write_text(file_of(kind.page, title))
    result = tusd("check", "-c", "tusd.yaml", cwd=tmp_path)
    assert (result.stderr, result.returncode) == ("", 0)


@pytest.mark.parametrize("upstreams", [["127.0.0.1:1080"], ["127.0.0.1:1080", "127.0.0.1:1081"]], ids=["one", "two"])
def test_the_proxys_file_is_good(kind: type[Proxy], certificate: Certificate, tmp_path: Path, upstreams: list[str]) -> None:
    command = kind(tmp_path, certificate, upstreams).command
    result = subprocess.run([*command, "-t" if kind is Nginx else "-c"], capture_output=True, text=True, timeout=30, check=False)
    said = result.stdout + result.stderr
    assert result.returncode == 0, said
    assert "warn" not in said.lower(), said


def test_the_server_gives_up_a_client_before_the_proxy_does(kind: type[Proxy]) -> None:
    """Only its answer makes clients retry."""
    (patience,) = numbers(kind, r"(?:client_body_timeout|timeout client) (\d+)s")
    assert patience > ServerSection().read_timeout


def test_the_proxy_waits_for_whatever_the_server_may_wait(kind: type[Proxy]) -> None:
    (patience,) = numbers(kind, r"(?:proxy_read_timeout|timeout server) (\d+)s")
    uploads = UploadsSection()
    assert patience > uploads.lock_timeout + uploads.concatenation_timeout


def test_all_metadata_fits(kind: type[Proxy]) -> None:
    sizes = numbers(kind, BUFFERS[kind])
    assert len(sizes) == (2 if kind is Nginx else 1)
    for size in sizes:
        assert size * (1024 if kind is Nginx else 1) >= UploadsSection().max_metadata_size * 2


@pytest.mark.parametrize("kind", PROXIES, ids=lambda kind: kind.name)
def test_every_line_that_is_explained_stands_in_the_file(kind: type[Proxy]) -> None:
    """The first column of the table names settings of the file; `X-Forwarded-*` stands for several."""
    text = (HOWTO / kind.page).read_text()
    rows = re.findall(r"^\| (`.+?) \|", text, re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    assert len(named) > 5
    for name in named:
        assert name.rstrip("*") in file_of(kind.page, kind.title), name
