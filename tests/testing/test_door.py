from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tusd import plugin
from tusd.builtin.file_storage import FileStorage
from tusd.builtin.memory_storage import MemoryStorage
from tusd.config import StartErrors
from tusd.errors import PluginError
from tusd.plugin import DataStore
from tusd.testing.door import Door, open_plugin
from tusd.testing.elsewhere import Elsewhere, run_elsewhere


class Uninstalled:
    """No distribution offers it."""

    scope = plugin.Scope.PROCESS

    @plugin.hookimpl
    @asynccontextmanager
    async def open_storage(self) -> AsyncIterator[DataStore]:
        raise AssertionError("it is not opened")
        yield


def file_door(folder: Path, **options: object) -> Door[DataStore]:
    return Door("storage", FileStorage, {"directory": str(folder / "data"), **options}, folder / "run")


async def test_a_plugin_is_opened_with_its_options(tmp_path: Path) -> None:
    async with file_door(tmp_path).open() as store:
        await store.check()
        assert isinstance(store, DataStore)
    assert (tmp_path / "data").is_dir()


async def test_options_are_checked_as_at_a_start(tmp_path: Path) -> None:
    with pytest.raises(StartErrors, match="directroy"):
        async with file_door(tmp_path, directroy="x").open():
            pass


async def test_a_class_that_is_not_installed_is_named(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"Uninstalled.*entry-points.*tusd\.storage"):
        async with open_plugin("storage", Uninstalled, {}, tmp_path):
            pass


async def test_a_plugin_for_another_seam_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"tusd\.locking"):
        async with open_plugin("locking", MemoryStorage, {}, tmp_path):
            pass


async def kind_of(store: DataStore, suffix: str) -> str:
    return type(store).__name__ + suffix


async def hang(store: DataStore) -> None:
    print("hanging", flush=True)
    await asyncio.Event().wait()


async def fail(store: DataStore) -> None:
    raise RuntimeError("it failed elsewhere")


async def test_a_function_runs_in_another_process(tmp_path: Path) -> None:
    assert await run_elsewhere(file_door(tmp_path), kind_of, "!") == "FileStore!"


async def test_a_function_that_fails_in_another_process(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(AssertionError, match="the other process failed"):
        await run_elsewhere(file_door(tmp_path), fail)
    assert "it failed elsewhere" in capfd.readouterr().err


async def test_another_process_is_killed(tmp_path: Path) -> None:
    async with Elsewhere(file_door(tmp_path), hang) as other:
        await other.said("hanging")
        assert await other.kill() == ["hanging"]


async def test_a_process_that_ends_too_early_is_noticed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async with Elsewhere(file_door(tmp_path), fail) as other:
        with pytest.raises(AssertionError, match="before it said 'never'"):
            await other.said("never")
    assert "it failed elsewhere" in capfd.readouterr().err
