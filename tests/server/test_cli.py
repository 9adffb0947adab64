"""server/cli.py: every command and what it says when something is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tests.server.running import TUSD, serving, tusd

from tusd import __version__

HERE = "server: {listen: '127.0.0.1:0'}\n"


def test_version(tmp_path: Path) -> None:
    result = tusd("--version", cwd=tmp_path)
    assert (result.stdout, result.returncode) == (f"tusd {__version__}\n", 0)


def test_help_names_the_commands(tmp_path: Path) -> None:
    result = tusd("--help", cwd=tmp_path)
    assert result.returncode == 0
    for command in ("serve", "check", "plugins", "config"):
        assert f"  {command} " in result.stdout


@pytest.mark.parametrize("group", [[], ["hooks"], ["config"]])
def test_each_command_is_described_in_one_whole_line(tmp_path: Path, group: list[str]) -> None:
    lines = tusd(*group, "--help", cwd=tmp_path).stdout.partition("Commands:\n")[2].splitlines()
    assert len(lines) >= 2
    assert all(line.startswith("  ") and line.endswith(".") and not line.endswith("...") for line in lines)


@pytest.mark.parametrize("arguments", [["-c", "tusd.yaml"], ["serve", "-c", "tusd.yaml"], ["serve", "--config", "tusd.yaml"]])
def test_serve_is_the_default_command(tmp_path: Path, arguments: list[str]) -> None:
    with serving(tmp_path, HERE, *arguments) as server:
        assert server.said.startswith(f"tusd {__version__}: upload to http://127.0.0.1:")
        assert server.said.endswith(f"/files/ (storage: file in {tmp_path / 'data'})\n")
        assert server.request("OPTIONS", "/files/").status in (200, 204)


def test_serve_without_a_file_uses_the_defaults(tmp_path: Path) -> None:
    """Port 1080 may be taken on the machine that tests: then that is said of the default address."""
    process = subprocess.Popen(TUSD, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = process.stdout.readline()
    process.terminate()
    _, log = process.communicate(timeout=15)
    assert "upload to http://127.0.0.1:1080/files/" in said or "cannot listen on 0.0.0.0:1080: the port is in use" in log


def test_public_url_is_what_clients_are_told(tmp_path: Path) -> None:
    with serving(tmp_path, "server: {listen: '127.0.0.1:0', public_url: 'https://up.example.com/files/'}") as server:
        assert server.url == "https://up.example.com/files/"


def test_check_says_that_all_is_good(tmp_path: Path) -> None:
    (tmp_path / "tusd.yaml").write_text(HERE)
    result = tusd("check", "-c", "tusd.yaml", cwd=tmp_path)
    assert (result.stdout, result.stderr, result.returncode) == ("tusd.yaml: good\n", "", 0)
    assert sorted(os.listdir(tmp_path)) == ["tusd.yaml"]


@pytest.mark.parametrize("command", ["serve", "check"])
def test_all_errors_are_told_at_once_with_their_places(tmp_path: Path, command: str) -> None:
    (tmp_path / "tusd.yaml").write_text(
        "server:\n  listen: nowhere\nstorage:\n  use: file\n  directry: ./x\nlocking: {use: redish}\nlogging: {level: loud}\n"
    )
    result = tusd(command, "-c", "tusd.yaml", cwd=tmp_path)
    assert result.returncode == 2
    lines = result.stderr.splitlines()
    assert [line.split(" ")[0] for line in sorted(lines)] == [
        "tusd.yaml:2:3",
        "tusd.yaml:5:3",
        "tusd.yaml:6:11",
        "tusd.yaml:7:11",
    ]
    assert 'did you mean "directory"?' in result.stderr
    assert result.stdout == ""


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    result = tusd("check", "-c", "nothing.yaml", cwd=tmp_path)
    assert (result.stderr, result.returncode) == ("nothing.yaml cannot be read: No such file or directory\n", 2)


def test_check_connect_opens_everything(tmp_path: Path) -> None:
    result = tusd("check", "--connect", cwd=tmp_path)
    assert (result.stdout, result.returncode) == ("defaults: good, and all backends can be used\n", 0)


def test_check_connect_says_what_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "tusd.yaml").write_text("storage: {use: file, directory: ./file/data}\n")
    assert tusd("check", "-c", "tusd.yaml", cwd=tmp_path).returncode == 0
    result = tusd("check", "--connect", "-c", "tusd.yaml", cwd=tmp_path)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("storage:file: cannot be opened: ")
    assert len(result.stderr.splitlines()) == 1


SICK = '''
from contextlib import asynccontextmanager
from tusd import plugin

class SickStore(plugin.WrappedStore):
    async def check(self):
        raise plugin.StorageUnavailable("the disk is on fire")

class Sick:
    """A store that is not well."""

    @plugin.hookimpl(wrapper=True)
    def open_storage(self):
        opening = yield
        return self.wrap(opening)

    @asynccontextmanager
    async def wrap(self, opening):
        async with opening as store:
            yield SickStore(store)
'''


def test_check_connect_asks_the_backends(tmp_path: Path) -> None:
    (tmp_path / "sick.py").write_text(SICK)
    (tmp_path / "tusd.yaml").write_text("plugins: [{use: './sick.py:Sick'}]\n")
    result = tusd("check", "--connect", "-c", "tusd.yaml", cwd=tmp_path)
    assert (result.stderr, result.returncode) == ("storage: cannot be used: the disk is on fire\n", 2)


def test_serve_says_what_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for workers in (1, 3):
        (tmp_path / "tusd.yaml").write_text(
            f"server: {{listen: '127.0.0.1:0', workers: {workers}}}\nstorage: {{use: file, directory: ./file/data}}\n"
        )
        result = tusd("-c", "tusd.yaml", cwd=tmp_path)
        assert result.returncode == 2
        assert result.stderr.startswith("storage:file: cannot be opened: ")
        assert len(result.stderr.splitlines()) == 1


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with serving(tmp_path, HERE) as server:
        address = server.url.split("/")[2]
        (tmp_path / "second.yaml").write_text(f"server: {{listen: '{address}'}}\n")
        result = tusd("-c", "second.yaml", cwd=tmp_path)
    assert result.stderr == (
        f"second.yaml:1:10 server.listen: cannot listen on {address}: the port is in use; stop the other process or choose another port\n"
    )
    assert result.returncode == 2


def test_memory_does_not_serve_several_workers(tmp_path: Path) -> None:
    (tmp_path / "tusd.yaml").write_text("server: {workers: 2}\nstorage: {use: memory}\nlocking: {use: memory}\n")
    result = tusd("check", "-c", "tusd.yaml", cwd=tmp_path)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 2


def test_plugins_lists_what_is_installed(tmp_path: Path) -> None:
    result = tusd("plugins", cwd=tmp_path)
    assert result.returncode == 0
    line = next(line for line in result.stdout.splitlines() if line.split()[:2] == ["storage", "file"])
    assert line.split()[2:4] == ["tusd", __version__]
    assert line.endswith("Keep uploads in a directory of the local disk.")


def test_plugins_as_json(tmp_path: Path) -> None:
    listings = json.loads(tusd("plugins", "--json", cwd=tmp_path).stdout)
    found = next(one for one in listings if (one["seam"], one["name"]) == ("locking", "file"))
    assert found["distribution"] == "tusd"
    assert found["version"] == __version__
    assert found["error"] is None
    assert found["summary"].endswith(".")


def test_plugins_says_what_cannot_be_used(tmp_path: Path) -> None:
    """A distribution on the path whose plugin cannot be imported."""
    about = tmp_path / "site" / "tusd_plugin_broken-0.3.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: tusd-plugin-broken\nVersion: 0.3\n")
    (about / "entry_points.txt").write_text("[tusd.storage]\nbroken = nowhere_to_be_found:Storage\n")
    env = {"PYTHONPATH": str(tmp_path / "site"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    result = tusd("plugins", cwd=tmp_path, env=env)
    assert result.returncode == 0
    line = next(line for line in result.stdout.splitlines() if "broken" in line)
    assert line.split()[:4] == ["storage", "broken", "tusd-plugin-broken", "0.3"]
    assert "cannot be used: " in line
    assert "nowhere_to_be_found" in line


def test_schema_knows_options_of_core_and_plugins(tmp_path: Path) -> None:
    result = tusd("config", "schema", cwd=tmp_path)
    schema = json.loads(result.stdout)
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert set(schema["properties"]) >= {"server", "uploads", "storage", "locking", "logging"}
    assert "fsync" in json.dumps(schema["properties"]["storage"])


def test_show_has_defaults_environment_and_plugins(tmp_path: Path) -> None:
    (tmp_path / "tusd.yaml").write_text("uploads: {max_size: '${LIMIT}'}\nstorage: {use: file, directory: ./up}\n")
    result = tusd("config", "show", "-c", "tusd.yaml", cwd=tmp_path, env={"LIMIT": "5KiB"})
    shown = yaml.safe_load(result.stdout)
    assert result.returncode == 0
    assert shown["uploads"]["max_size"] == 5120
    assert shown["server"]["base_path"] == "/files/"
    assert (shown["storage"]["use"], shown["storage"]["directory"]) == ("file", "up")
    assert shown["hooks"] == []


def test_what_show_prints_is_a_configuration_itself(tmp_path: Path) -> None:
    first = tusd("config", "show", cwd=tmp_path).stdout
    (tmp_path / "shown.yaml").write_text(first)
    result = tusd("config", "show", "-c", "shown.yaml", cwd=tmp_path)
    assert (result.stdout, result.stderr) == (first, "")


KEEPER = '''
from contextlib import asynccontextmanager
from tusd import plugin

class Keeper:
    """Has secrets."""

    class Options(plugin.Options):
        password: plugin.Secret = ""
        tokens: list[plugin.Secret] = []
        account: str = ""
        plain: str = ""

    def __init__(self, options):
        self.options = options

    @plugin.hookimpl
    def add_routes(self, routes):
        pass
'''


def test_show_masks_secrets(tmp_path: Path) -> None:
    (tmp_path / "keeper.py").write_text(KEEPER)
    (tmp_path / "account").write_text("s3cret-account\n")
    (tmp_path / "tusd.yaml").write_text(
        "plugins:\n- {use: ./keeper.py, password: s3cret-password, tokens: [s3cret-token],"
        " account: '${file:account}', plain: readable}\n"
    )
    result = tusd("config", "show", "-c", "tusd.yaml", cwd=tmp_path)
    assert result.stderr == ""
    assert "s3cret" not in result.stdout
    assert yaml.safe_load(result.stdout)["plugins"] == [
        {"use": "./keeper.py", "password": "********", "tokens": ["********"], "account": "********", "plain": "readable"}
    ]


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    result = subprocess.run(
        [sys.executable, "-m", "tusd", "config", "schema"], cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)
    assert b"Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "absent"),
    [(["--version"], ["aiohttp", "pydantic", "yaml", "stevedore"]), (["check"], ["aiohttp"]), (["plugins"], ["aiohttp"])],
)
def test_commands_load_only_what_they_need(tmp_path: Path, arguments: list[str], absent: list[str]) -> None:
    program = (
        "import sys\nfrom tusd.server.cli import main\n"
        f"sys.argv[1:] = {arguments!r}\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"loaded = [name for name in {absent!r} if name in sys.modules]\n"
        "assert not loaded, loaded\n"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.stderr == ""
    assert result.returncode == 0
