"""Fixtures and hooks. What takes time to import is imported by the workers only, where they need it."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from src.run.saved import SavedRun

# Tiny models: a second thread costs more than it brings, here and in the programs that tests start.
os.environ["OMP_NUM_THREADS"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that start programs, so that no worker is still at one when the others have ended."""
    items.sort(key=lambda item: item.path.stem not in ("test_sweep_runs", "test_processes", "test_distributed"))


def pytest_collection_finish() -> None:
    import hydra_cache

    hydra_cache.install()


@pytest.fixture(autouse=True, scope="module")
def no_search_through_libraries() -> None:
    """Keep what is imported by now out of garbage collections, of which each job of a sweep makes one."""
    gc.freeze()


@pytest.fixture
def empty_pictures() -> Iterator[None]:
    """Make empty files of pictures, where a test is not about them."""
    from helpers import replace_pictures

    with pytest.MonkeyPatch.context() as patch:
        replace_pictures(patch)
        yield


@pytest.fixture(scope="module")
def quick_pictures() -> Iterator[None]:
    """Make empty files of pictures, in fixtures of a module too."""
    from helpers import replace_pictures

    with pytest.MonkeyPatch.context() as patch:
        replace_pictures(patch)
        yield


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium."""
    from helpers import CHROMIUM
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    from helpers import make_folder

    return make_folder(tmp_path / "photos")


@pytest.fixture(scope="session")
def photo_run(tmp_path_factory: pytest.TempPathFactory) -> SavedRun:
    """A finished run on pictures of odd sizes, two epochs."""
    from helpers import make_folder, photo_overrides, train_run

    root = make_folder(tmp_path_factory.mktemp("session") / "photos [ä]")
    folder = tmp_path_factory.mktemp("runs") / "photos"
    return train_run(folder, *photo_overrides(root))
