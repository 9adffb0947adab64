"""What `make dist` builds: its contents, and a server from the wheel in an environment that has nothing else."""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.needs import need
from tests.server.running import serving
from tests.services.servers import S3Bucket
from tusd import __version__

ROOT = Path(__file__).parent.parent
PLUGINS = sorted(ROOT.glob("plugins/*/pyproject.toml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

pytestmark = pytest.mark.slow


def run(*command: str, cwd: Path) -> str:
    """Run a command; its output. The test fails with the output when the command does."""
    result = subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that `make dist` fills, of a copy of this repository."""
    copy = tmp_path_factory.mktemp("dist") / "tusd"
    ignored = shutil.ignore_patterns(
        ".git", ".venv", "node_modules", "__pycache__", ".*_cache", ".hypothesis", "dist", "data", "run"
    )
    shutil.copytree(ROOT, copy, ignore=ignored)
    environment = Path(sys.prefix)
    stamps = [f"--old-file={environment / stamp}" for stamp in ("installed", "installed-dev")]
    run(need("make", how="apt install make"), "dist", f"VENV={environment}", *stamps, cwd=copy)
    return copy / "dist"


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    return next(dist.glob("tusd-*.whl"))


def test_make_dist_builds_every_distribution(dist: Path) -> None:
    projects = [ROOT / "pyproject.toml", *PLUGINS]
    names = {tomllib.loads(project.read_text())["project"]["name"].replace("-", "_") for project in projects}
    assert {path.name.split("-")[0] for path in dist.glob("*.whl")} == names
    assert {path.name.rsplit("-", 1)[0] for path in dist.glob("*.tar.gz")} == names


def test_the_wheel_has_what_it_should(wheel: Path) -> None:
    assert wheel.name == f"tusd-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        info = f"tusd-{__version__}.dist-info"
        metadata = email.message_from_bytes(archive.read(f"{info}/METADATA"))
        entry_points = archive.read(f"{info}/entry_points.txt").decode()
    sources = {path.relative_to(ROOT / "core").as_posix() for path in (ROOT / "core/tusd").rglob("*.py")}
    assert {name for name in names if not name.startswith(info)} == sources | {"tusd/py.typed"}
    assert f"{info}/licenses/LICENSE" in names
    assert metadata["Name"] == "tusd"
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == PROJECT["requires-python"]
    assert "make run" in str(metadata.get_payload())
    for group, entries in {**PROJECT["entry-points"], "console_scripts": PROJECT["scripts"]}.items():
        assert f"[{group}]" in entry_points
        for name, target in entries.items():
            assert f"{name} = {target}" in entry_points


@pytest.mark.parametrize("project", PLUGINS, ids=lambda path: path.parent.name)
def test_the_wheel_of_a_plugin_has_what_it_should(dist: Path, project: Path) -> None:
    described = tomllib.loads(project.read_text())["project"]
    info = f"{described['name'].replace('-', '_')}-{described['version']}"
    with zipfile.ZipFile(dist / f"{info}-py3-none-any.whl") as archive:
        names = set(archive.namelist())
        entry_points = archive.read(f"{info}.dist-info/entry_points.txt").decode()
    sources = project.parent / "src"
    files = {path.relative_to(sources).as_posix() for path in sources.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert {name for name in names if not name.startswith(info)} == files
    assert f"{info}.dist-info/licenses/LICENSE" in names
    for group, entries in described["entry-points"].items():
        assert f"[{group}]" in entry_points
        assert all(f"{name} = {target}" in entry_points for name, target in entries.items())


def test_the_source_distribution_has_what_it_should(dist: Path) -> None:
    with tarfile.open(next(dist.glob("tusd-*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "core/tusd/py.typed"} <= names
    assert not any(name.startswith(("tests/", ".ci/")) for name in names)


def installed(directory: Path, *wheels: Path) -> Path:
    """A new environment with nothing but these wheels and what they need."""
    environment = directory / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", str(environment), cwd=directory)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(environment / "bin" / "python")]
    run(*pip, "install", "--quiet", "--no-compile", *map(str, wheels), cwd=directory)
    return environment


def test_a_server_from_the_wheel_serves(wheel: Path, tmp_path: Path) -> None:
    environment = installed(tmp_path, wheel)
    python = str(environment / "bin" / "python")
    heavy = "boto3 botocore google grpc azure redis".split()
    assert run(python, "-c", f"import importlib.util as u; print([m for m in {heavy} if u.find_spec(m)])", cwd=tmp_path) == "[]\n"
    assert run(str(environment / "bin" / "tusd"), "--version", cwd=tmp_path) == f"tusd {__version__}\n"
    assert run(python, "-c", "import tusd; print(tusd.__file__)", cwd=tmp_path).startswith(str(environment))
    data = os.urandom(3_000_000)
    with serving(tmp_path, "server: {listen: '127.0.0.1:0'}\n", command=[str(environment / "bin" / "tusd")]) as server:
        path = server.create(len(data))
        for begin in (0, 1_000_000):
            headers = {"Upload-Offset": str(begin), "Content-Type": "application/offset+octet-stream"}
            answer = server.request("PATCH", path, headers, data[begin : begin + 1_000_000 if begin == 0 else None])
            assert answer.status == 204
        assert server.request("GET", path).body == data
        assert server.stop() == 0


def test_the_wheels_of_the_server_and_of_s3_and_an_edited_configuration_fill_a_bucket(
    wheel: Path, tmp_path: Path, localstack_bucket: S3Bucket
) -> None:
    environment = installed(tmp_path, wheel, next(wheel.parent.glob("tusd_plugin_s3-*.whl")))
    there = localstack_bucket.server
    storage = f"{{use: s3, bucket: {localstack_bucket.name}, endpoint: '{there.endpoint}', region: {there.region}}}"
    keys = {"AWS_ACCESS_KEY_ID": there.access_key, "AWS_SECRET_ACCESS_KEY": there.secret_key}
    example = (ROOT / "config.example.yaml").read_text()
    section = re.search(r"^storage:.*?\n(?=\S)", example, re.MULTILINE | re.DOTALL)
    assert section is not None
    edited = example.replace(section[0], f"storage: {storage}\n").replace("0.0.0.0:1080", "127.0.0.1:0")
    data = os.urandom(7_000_000)
    with serving(
        tmp_path, edited, command=["env", *(f"{k}={v}" for k, v in keys.items()), str(environment / "bin" / "tusd")]
    ) as server:
        path = server.create(len(data))
        headers = {"Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
        assert server.request("PATCH", path, headers, data).status == 204
        assert server.request("GET", path).body == data
    with there.client() as client:
        kept = client.get_object(Bucket=localstack_bucket.name, Key=path.rpartition("/")[2])["Body"].read()
    assert kept == data
