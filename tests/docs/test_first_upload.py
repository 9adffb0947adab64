"""docs/tutorial/first-upload.md: its code is `first_upload/`, and what it says happens does."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

from tests.server.running import tusd

from tusd.testing.server import ServerProcess, free_port

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tutorial" / "first-upload.md").read_text()
SCRIPT = Path(__file__).parent / "first_upload" / "upload.py"
URL = "http://127.0.0.1:1080/files/"
LIMIT = "uploads: {max_size: 10MB}\n"
Start = Callable[..., ServerProcess]


class Client:
    """The tutorial's script in a folder of its own, for a server at another port."""

    def __init__(self, folder: Path, url: str) -> None:
        folder.mkdir()
        self.folder = folder
        (folder / "upload.py").write_text(SCRIPT.read_text().replace(URL, url))

    def begin(self, name: str) -> subprocess.Popen[str]:
        """Run `python upload.py name`."""
        return subprocess.Popen(
            [sys.executable, "upload.py", name], cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )


def block(language: str, name: str) -> str:
    """The file `name`, as the page shows it."""
    (found,) = re.findall(rf'```{language} title="{re.escape(name)}"\n(.*?)```', PAGE, re.DOTALL)
    return str(found)


def pattern(line: str) -> str:
    """A line of the page, with numbers and dates of any value."""
    return re.sub(r"\d+", r"\\d+", re.escape(line))


def test_the_page_shows_what_is_tested() -> None:
    """Comments for this repository's type checker, to which tuspy's functions have no types, are not shown."""
    assert block("python", "upload.py") == re.sub(r"  # type: ignore.*", "", SCRIPT.read_text())
    assert URL in SCRIPT.read_text()
    assert block("yaml", "tusd.yaml") == LIMIT


def test_resumes_after_the_server_was_killed(tusd_server: Start, tmp_path: Path) -> None:
    server = tusd_server()
    client = Client(tmp_path / "client", server.url)
    data = hashlib.shake_128(b"tutorial").digest(9_500_000)
    (client.folder / "big.bin").write_bytes(data)

    first = client.begin("big.bin")
    assert first.stdout is not None
    assert first.stdout.readline() == "begin at 0 of 9500000\n"
    assert first.stdout.readline() == "safe: 1000000\n"
    time.sleep(0.25)
    server.kill()
    said, complaint = first.communicate(timeout=30)
    assert first.returncode == 1
    # Between two requests nobody listens any more; in the middle of one the connection is reset.
    assert re.search(r"^broken off: (HTTPConnectionPool\(host='127\.0\.0\.1', port=|.*Connection)", complaint, re.MULTILINE)
    safe = max(int(offset) for offset in re.findall(r"^safe: (\d+)$", "safe: 1000000\n" + said, re.MULTILINE))
    assert safe < 9_000_000, "it was killed too late to prove anything"

    server.start()
    second = client.begin("big.bin")
    said, complaint = second.communicate(timeout=30)
    assert (second.returncode, complaint) == (0, "")
    begin = re.match(r"begin at (\d+) of 9500000\n", said)
    assert begin is not None
    assert safe <= int(begin[1]) < 9_500_000
    *_, last, url = said.splitlines()
    assert last == "safe: 9500000"

    with urlopen(url) as answer:
        assert answer.read() == data
    upload_id = url.rpartition("/")[2]
    folder = server.directory / "data"
    assert sorted(path.name for path in folder.iterdir()) == [upload_id, f"{upload_id}.info"]
    assert (folder / upload_id).read_bytes() == data
    assert '"MetaData":{"filename":"big.bin"}' in (folder / f"{upload_id}.info").read_text()


def test_the_option_refuses_a_large_file(tusd_server: Start, tmp_path: Path) -> None:
    server = tusd_server(LIMIT)
    client = Client(tmp_path / "client", server.url)
    (client.folder / "other.bin").write_bytes(bytes(20_000_000))
    process = client.begin("other.bin")
    said, complaint = process.communicate(timeout=30)
    assert process.returncode == 1
    assert f"$ .venv/bin/python upload.py other.bin\n{said}{complaint.rstrip()}\n```" in PAGE


def test_what_check_says(tmp_path: Path) -> None:
    command = "$ .venv/bin/tusd check -c tusd.yaml\n"
    for text in (LIMIT, LIMIT.replace("max_size", "max_sise")):
        (tmp_path / "tusd.yaml").write_text(text)
        result = tusd("check", "-c", "tusd.yaml", cwd=tmp_path)
        assert command + result.stdout + result.stderr in PAGE


def test_what_the_server_says(tmp_path: Path) -> None:
    """The page shows the lines that a server with all defaults prints, and the command that `make run` runs."""
    with ServerProcess(tmp_path, {"server": {"listen": f"0.0.0.0:{free_port()}"}}) as server:
        log = server.log
        folder = str(tmp_path / "data")
        said = log.replace(f":{server.port}/", ":1080/").replace(folder, "/home/you/tusd/data").splitlines()
    shown = [line for line in PAGE.splitlines() if line.startswith("tusd 0") or line.endswith(" serving")]
    assert len(shown) == 2
    for line in shown:
        assert any(re.fullmatch(pattern(line), one) for one in said), (line, said)
    (recipe,) = re.findall(r"^run:.*\n\t(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe.replace("$(VENV)", ".venv") in PAGE.splitlines()
