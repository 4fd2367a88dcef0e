"""The folder of an export: what is in it stays whole, whatever ends an export, and whoever else writes there."""

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_export import make_bundle
from test_predict import infer
from torch import Tensor

from src.export import export
from src.export.bundle import Bundle
from src.export.destination import Destination, describe_files
from src.export.formats import FORMATS
from src.export.parity import measure
from src.run.files import remove_leftovers
from src.run.saved import SavedRun

pytestmark = pytest.mark.export


@pytest.fixture
def place(photo_run: SavedRun, tmp_path: Path) -> Path:
    shutil.copytree(photo_run.folder, tmp_path / "outputs" / "run")
    return tmp_path


def write(destination: Destination, name: str, *files: str, content: str = "new") -> None:
    """Write a format of these files into the folder, as an export does."""
    with destination.open_workspace() as workspace:
        for file in files:
            (workspace / file).parent.mkdir(exist_ok=True)
            (workspace / file).write_text(content)
        destination.refuse_foreign(files)
        written = {name: {"files": describe_files(workspace, files)}}
        record: dict[str, Any] = {"weights": destination.weights}
        destination.take(workspace, files, written, record)


def list_names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_a_killed_export_does_not_keep_its_run_from_being_resumed_and_goes_with_the_next(tmp_path: Path) -> None:
    killed = tmp_path / ".export-999999999-abc.tmp"
    killed.mkdir()
    (tmp_path / ".half.tmp").touch()
    alive = tmp_path / f".export-{os.getpid()}-abc.tmp"
    alive.mkdir()
    remove_leftovers(tmp_path)
    assert list_names(tmp_path) == {killed.name, alive.name}
    write(Destination(tmp_path, "1"), "a", "a.bin")
    assert list_names(tmp_path) == {"a.bin", "parity.json", alive.name}


def test_a_folder_that_was_made_for_nothing_goes(tmp_path: Path) -> None:
    with pytest.raises(KeyError), Destination(tmp_path / "deep/new", "1").open_workspace():
        raise KeyError
    assert not list_names(tmp_path)


@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), KeyboardInterrupt()], ids=["error", "kill"])
def test_an_export_that_ends_while_files_arrive_claims_none_and_the_next_repairs_it(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    move = os.replace

    def stop(old: Path, new: Path) -> None:
        if Path(new).name == "b.bin":
            raise error
        move(old, new)

    write(Destination(tmp_path, "1"), "x", "x.bin")
    write(Destination(tmp_path, "1"), "ab", "a.bin", "b.bin", content="old")
    with monkeypatch.context() as patch, pytest.raises(type(error)) as raised:
        patch.setattr(os, "replace", stop)
        write(Destination(tmp_path, "1"), "ab", "a.bin", "b.bin")
    if isinstance(error, OSError):
        assert "broken; a.bin of 2 files arrived; export again" in str(raised.value)
    record = json.loads((tmp_path / "parity.json").read_text())
    assert record["formats"].keys() == {"x"} and record["incomplete"].keys() == {"ab"}
    assert (tmp_path / "a.bin").read_text() == "new" and (tmp_path / "b.bin").read_text() == "old"
    write(Destination(tmp_path, "1"), "ab", "a.bin", "b.bin")
    assert Destination(tmp_path, "1").formats.keys() == {"x", "ab"} and not Destination(tmp_path, "1").incomplete


def test_what_is_in_the_way_is_found_before_a_file_is_moved(tmp_path: Path) -> None:
    (tmp_path / "hf").touch()
    with pytest.raises(OSError, match="hf is a file, and would be a folder"):
        write(Destination(tmp_path, "1"), "a", "a.bin", "hf/config.json")
    (tmp_path / "b.bin").mkdir()
    with pytest.raises(OSError, match="b.bin is a folder, and would be a file"):
        write(Destination(tmp_path, "1"), "a", "a.bin", "b.bin")
    assert list_names(tmp_path) == {"hf", "b.bin"}


def test_nothing_is_written_through_links(place: Path) -> None:
    (place / "elsewhere").mkdir()
    (place / "out").mkdir()
    (place / "out" / "hf").symlink_to(place / "elsewhere")
    result = infer(place, "task=export", "run=outputs/run", "output=out")
    assert result.returncode == 1 and "hf is a link, to" in result.stderr
    (place / "outputs/run/exports").symlink_to(place / "elsewhere")
    result = infer(place, "task=export", "run=outputs/run")
    assert result.returncode == 1 and "exports is a link, to" in result.stderr
    assert not list_names(place / "elsewhere")


def test_two_exports_into_a_folder_at_once_are_refused(tmp_path: Path) -> None:
    first, second = Destination(tmp_path, "1"), Destination(tmp_path, "1")
    with (
        first.open_workspace(),
        pytest.raises(ValueError, match=f"output={tmp_path} is being written by another export; wait for it"),
        second.open_workspace(),
    ):
        pass
    write(first, "a", "a.bin")
    with pytest.raises(ValueError, match="was written by another export meanwhile; start this one again"):
        write(second, "b", "b.bin")
    assert list_names(tmp_path) == {"a.bin", "parity.json"}


@pytest.mark.parametrize("content", ["{}", "[1]", "damaged", '{"weights": 3, "formats": {}}'])
def test_a_record_that_no_export_wrote_is_kept(content: str, tmp_path: Path) -> None:
    (tmp_path / "parity.json").write_text(content)
    with pytest.raises(ValueError, match=r"has a parity.json that no export wrote, or that is damaged; name another"):
        Destination(tmp_path, "1")


def test_what_is_left_of_a_format_stays_ours_and_of_its_weights(tmp_path: Path) -> None:
    write(Destination(tmp_path, "1"), "ab", "a.bin", "b.bin")
    (tmp_path / "a.bin").unlink()
    write(Destination(tmp_path, "1"), "c", "c.bin")
    again = Destination(tmp_path, "1")
    assert again.formats.keys() == {"c"} and again.incomplete.keys() == {"ab"}
    again.refuse_foreign(["a.bin", "b.bin"])
    with pytest.raises(ValueError, match="has ab of other weights"):
        Destination(tmp_path, "2").refuse_other_weights(["c"])
    (tmp_path / "c.bin").write_text("old")  # of the same size
    assert not Destination(tmp_path, "1").formats


def test_all_leaves_out_what_fails_and_a_named_format_does_not(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(bundle: Bundle, folder: Path) -> list[str]:
        raise RuntimeError("a library's\nreason")

    def disagree(bundle: Bundle, folder: Path) -> Tensor:
        return bundle.samples.probabilities.roll(1, 1)

    for name in FORMATS.keys() - {"timm", "hf", "pt2"}:
        monkeypatch.delitem(FORMATS, name)
    monkeypatch.setitem(FORMATS, "pt2", replace(FORMATS["pt2"], write=fail))
    monkeypatch.setitem(FORMATS, "hf", replace(FORMATS["hf"], predict=disagree))
    result = infer(place, "task=export", "run=outputs/run", "formats=all", "output=out")
    assert result.returncode == 0, result.stderr
    assert "left out    pt2: a library's\n" in result.stderr and "left out    hf: the file of" in result.stderr
    record = json.loads((place / "out/parity.json").read_text())
    assert record["formats"].keys() == {"timm"} and not (place / "out/hf").exists()
    assert record["formats"]["timm"]["max_logit_difference"] < 1e-4


def test_the_runtime_of_a_page_is_looked_for_before_any_work(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "open_bundle", lambda *arguments: pytest.fail("work"))
    result = infer(place, "task=export", "run=outputs/run", "formats=[web]", "web_runtime=gone.tgz")
    assert result.returncode == 1 and "formats=[web]: web_runtime=gone.tgz is not a file" in result.stderr


def test_a_single_class_is_checked_by_its_logits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = make_bundle(classes=1)
    FORMATS["timm"].write(bundle, tmp_path)
    difference = export._check("timm", bundle, tmp_path).logit_difference
    assert difference is not None and difference < 1e-5
    assert bundle.samples.logits is not None
    other = replace(bundle, samples=replace(bundle.samples, logits=bundle.samples.logits + 0.1))
    assert measure(torch.ones(2, 1), torch.ones(2, 1)).difference == 0
    with pytest.raises(ValueError, match=r"logits by 0\.1"):
        export._check("timm", other, tmp_path)


def test_files_that_no_export_wrote_are_not_replaced(place: Path) -> None:
    folder = place / "theirs"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    result = infer(place, "task=export", "run=outputs/run", "output=theirs")
    assert "output=theirs has config.json already, which no export wrote; name another folder" in result.stderr
    assert list_names(folder) == {"config.json"}
    result = infer(place, "task=export", "run=outputs/run", "output=outputs/run/config.yaml")
    assert "cannot be written: it is a file, not a folder" in result.stderr


def test_formats_of_other_weights_do_not_stay_beside_new_ones(tmp_path: Path) -> None:
    files = {"a.bin": {"bytes": 0}}
    (tmp_path / "a.bin").touch()
    record = {"weights": "1", "formats": {"hf": {"files": files}, "pt2": {"files": {"gone": {}}}, "x": 3}}
    (tmp_path / "parity.json").write_text(json.dumps(record))
    Destination(tmp_path, "1").refuse_other_weights(["timm"])
    Destination(tmp_path, "2").refuse_other_weights(["timm", "hf"])
    with pytest.raises(ValueError, match=r"has hf of other weights .* formats=\[timm,hf\]"):
        Destination(tmp_path, "2").refuse_other_weights(["timm"])
