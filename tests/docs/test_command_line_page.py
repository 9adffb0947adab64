"""docs/reference/command-line.md against the commands that click knows."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import click
import pytest
import yaml
from tests.configs import as_installed_alone
from tests.server.running import serving, tusd

from tusd.config import ServerSection
from tusd.server.cli import commands

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "command-line.md").read_text()
HERE = "server: {listen: '127.0.0.1:0'}\n"


def table(heading: str) -> list[list[str]]:
    """The rows below a heading, of its first table."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ") or line.startswith("|  |")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def page() -> set[tuple[str, str]]:
    """(command, option) of every row; an empty option is the row of the command itself."""
    found = set()
    command = ""
    for name, option, says in table("Commands"):
        assert says.endswith("."), says
        command = name.strip("`") or command
        found.add((command, option))
    return found


def described(option: click.Parameter) -> str:
    """An option as the page writes it: `-c`, `--config` FILE."""
    if isinstance(option, click.Argument):
        return str(option.metavar)
    names = ", ".join(f"`{name}`" for name in option.opts)
    return names if getattr(option, "is_flag", False) else f"{names} {option.metavar}"


def known(name: str, command: click.Command) -> set[tuple[str, str]]:
    """The same of click's commands. Groups that only hold commands have no row of their own."""
    found = {(name, described(option)) for option in command.params}
    if not isinstance(command, click.Group) or command is commands:
        found.add((name, ""))
    if isinstance(command, click.Group):
        for child, inner in command.commands.items():
            found |= known(f"{name} {child}", inner)
    return found


def test_every_command_and_option_has_its_row() -> None:
    assert page() == known("tusd", commands)


def test_every_command_has_help(tmp_path: Path) -> None:
    for command, _ in page():
        result = tusd(*command.split()[1:], "--help", cwd=tmp_path)
        assert result.returncode == 0
        assert result.stdout.startswith(f"Usage: python -m {command} ")


def test_the_example_of_a_bad_file(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "tusd.yaml").write_text(text)
    result = tusd("check", "-c", "tusd.yaml", cwd=tmp_path)
    assert (result.stdout, result.returncode) == ("", 2)
    assert f"$ tusd check -c tusd.yaml\n{as_installed_alone(result.stderr)}```" in PAGE


def test_the_commands_at_the_top(tmp_path: Path) -> None:
    (tmp_path / "tusd.yaml").write_text(HERE)
    shown = re.findall(r"^\$ tusd (.*?) +#", PAGE, re.MULTILINE)
    assert shown == ["-c tusd.yaml", "check -c tusd.yaml", "plugins"]
    for line in shown[1:]:
        assert tusd(*line.split(), cwd=tmp_path).returncode == 0
    with serving(tmp_path, HERE, *shown[0].split()) as server:
        assert server.said.startswith("tusd ")


def test_statuses(tmp_path: Path) -> None:
    assert [row[0] for row in table("Output and exit status") if row[0].isdigit()] == ["0", "1", "2"]
    with serving(tmp_path, HERE) as server:
        assert server.stop(signal.SIGINT) == 0
    assert tusd("serve", "--unheard-of", cwd=tmp_path).returncode == 2
    assert tusd("serve", "-c", "missing.yaml", cwd=tmp_path).returncode == 2


def test_the_ready_line_goes_to_stdout_and_the_log_to_stderr(tmp_path: Path) -> None:
    with serving(tmp_path, HERE) as server:
        assert re.fullmatch(r"tusd \S+: upload to http://\S+ \(storage: .+\)\n", server.said)
        assert "upload to" not in server.log
        assert "serving" in server.log


@pytest.mark.parametrize("command", [("config", "show"), ("config", "schema"), ("plugins", "--json")])
def test_what_programs_read(tmp_path: Path, command: tuple[str, ...]) -> None:
    result = tusd(*command, cwd=tmp_path)
    assert result.returncode == 0
    assert yaml.safe_load(result.stdout), "YAML, or JSON, which is YAML, too"


def test_options_that_are_named_exist() -> None:
    named = re.findall(r"`server\.(\w+)", PAGE)
    assert named
    assert set(named) <= set(ServerSection.model_fields)
