"""Downloads: whole or not there at all; through the real clients, from a server in this process."""

import base64
import gc
import hashlib
import io
import json
import os
import shutil
import tarfile
import threading
import warnings
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import layouts
import pytest
from helpers import compose

from src.data.downloads import obtain
from src.data.folders import Source
from src.data.sources import load_source
from src.data.torchvision_sets import GTSRB_SIGNS


class Server(ThreadingHTTPServer):
    """Answers paths by (status, headers, body), keeps what was asked for, and counts on nothing but loopback."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:  # noqa: N802 (the name is http.server's)
        assert isinstance(self.server, Server)
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        name = self.path.rsplit("/", 1)[-1]
        self.server.asked.append(name)
        status, headers, body = self.server.answers.get(name, (404, {}, b"{}"))
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for key in [key for key in os.environ if key.lower().endswith("_proxy")]:
        monkeypatch.delenv(key)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def tree(root: Path) -> set[str]:
    return {path.name for path in root.iterdir()}


def aircraft_archive(folder: Path) -> bytes:
    layouts.make_fgvc_aircraft(folder)
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        archive.add(folder / "fgvc-aircraft-2013b", "fgvc-aircraft-2013b")
    return content.getvalue()


def aircraft(root: Path) -> Source:
    return load_source(compose("dataset=fgvc_aircraft", f"dataset.root='{root}'").dataset)


def test_a_set_is_downloaded_once_and_its_archive_not_kept(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "fgvc-aircraft-2013b.tar.gz"
    server.answers[name] = (200, {}, aircraft_archive(tmp_path / "made"))
    monkeypatch.setattr("torchvision.datasets.FGVCAircraft._URL", f"{server.url}/{name}")
    root = tmp_path / "new" / "data"
    source = aircraft(root)
    assert {split: len(labels) for split, (_, labels) in source.splits.items()} == {"train": 6, "val": 6, "test": 6}
    assert tree(root) == {"fgvc-aircraft-2013b", ".fgvc_aircraft.lock"}
    asked = len(server.asked)
    assert aircraft(root).splits == source.splits and len(server.asked) == asked


def test_a_damaged_archive_leaves_nothing_that_is_taken_for_whole(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, archive = "fgvc-aircraft-2013b.tar.gz", aircraft_archive(tmp_path / "made")
    server.answers[name] = (200, {}, archive[: len(archive) // 2])
    monkeypatch.setattr("torchvision.datasets.FGVCAircraft._URL", f"{server.url}/{name}")
    root = tmp_path / "data"
    with pytest.raises(
        OSError, match=r"fgvc_aircraft could not be downloaded to dataset.root=.*\ncheck the connection"
    ):
        aircraft(root)
    assert tree(root) == {".fgvc_aircraft.lock"}
    server.answers[name] = (200, {}, archive)
    assert len(aircraft(root).splits["test"][1]) == 6


@pytest.mark.parametrize(
    "error", [OSError("disk full"), RuntimeError("wrong checksum"), EOFError(), KeyboardInterrupt()]
)
def test_an_extraction_that_breaks_off_leaves_nothing(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GTSRB's training folder alone makes torchvision believe that it is all there."""

    def extract_half(url: str, download_root: str, **_: object) -> None:
        layouts.touch(Path(download_root) / "GTSRB" / "Training" / "00000" / "00000_00000.ppm")
        raise error

    monkeypatch.setattr("torchvision.datasets.gtsrb.download_and_extract_archive", extract_half)
    expected = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else OSError
    with pytest.raises(expected, match=str(error) or None):
        load_source(compose("dataset=gtsrb", f"dataset.root='{tmp_path}'").dataset)
    assert tree(tmp_path) == {".gtsrb.lock"}


def test_what_a_killed_attempt_left_is_removed_and_a_half_folder_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layouts.make_gtsrb(tmp_path / "made", GTSRB_SIGNS)
    root = tmp_path / "data"
    layouts.touch(root / ".gtsrb.download" / "gtsrb" / "GTSRB" / "Training" / "00000" / "killed.ppm")
    layouts.touch(root / "gtsrb" / "GTSRB" / "Training" / "00000" / "half.ppm")

    def extract(url: str, download_root: str, **_: object) -> None:
        shutil.copytree(tmp_path / "made" / "gtsrb", download_root, dirs_exist_ok=True)
        (Path(download_root) / "GTSRB-Training_fixed.zip").touch()

    monkeypatch.setattr("torchvision.datasets.gtsrb.download_and_extract_archive", extract)
    source = load_source(compose("dataset=gtsrb", f"dataset.root='{root}'").dataset)
    assert len(source.splits["train"][1]) == 43 * 6 and len(source.splits["test"][1]) == 43
    assert tree(root) == {"gtsrb", "gtsrb.incomplete1", ".gtsrb.lock"}
    assert tree(root / "gtsrb") == {"GTSRB", "GT-final_test.csv"}
    assert any("was incomplete; it was renamed to" in note for note in source.notes)


def test_a_second_process_waits_for_the_first_and_uses_its_files(tmp_path: Path) -> None:
    made, results = [], []

    def read(folder: Path, download: bool) -> str:
        if download:
            made.append(folder)
            (folder / "set").touch()
            if len(made) == 1:
                other.start()  # while the first one holds the lock
        return str((folder / "set").resolve(strict=True))

    other = threading.Thread(target=lambda: results.append(obtain("set", tmp_path, read, [])))
    results.append(obtain("set", tmp_path, read, []))
    other.join()
    assert len(made) == 1 and results == [str(tmp_path / "set")] * 2


def test_a_set_that_is_there_needs_no_right_to_write(tmp_path: Path) -> None:
    layouts.make_dtd(tmp_path)
    load_source(compose("dataset=dtd", f"dataset.root='{tmp_path}'").dataset)
    assert tree(tmp_path) == {"dtd"}


def test_without_a_connection_the_download_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    for name, module in (("cifar10", "cifar"), ("mnist", "mnist"), ("tiny_imagenet", "utils")):
        monkeypatch.setattr(f"torchvision.datasets.{module}.download_and_extract_archive", refuse)
        with pytest.raises(
            OSError, match=rf"{name} could not be downloaded to dataset.root=.*: no route to host\ncheck"
        ):
            load_source(compose(f"dataset={name}", f"dataset.root='{tmp_path}'").dataset)


def frames_archive() -> bytes:
    """Return a zip as Kaggle's of Tom and Jerry: tables at the top, the class folders two folders down."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("ground_truth.csv", "")
        for i in range(400):
            name = ("jerry", "tom", "tom_jerry_0", "tom_jerry_1")[i // 7 % 4]
            archive.writestr(f"tom_and_jerry/tom_and_jerry/{name}/frame{i}.jpg", b"")
    return content.getvalue()


@pytest.fixture
def kaggle(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Yield the server as kaggle.com, with version 3 of the frames."""
    from kagglesdk import kaggle_env

    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.LOCAL, server.url)
    for key, value in {"KAGGLE_API_ENVIRONMENT": "LOCALHOST", "KAGGLEHUB_CACHE": "cache", "HOME": "home"}.items():
        monkeypatch.setenv(key, value if key == "KAGGLE_API_ENVIRONMENT" else str(tmp_path / value))
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "home"))
    for key in ("KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN", "KAGGLE_KERNEL_RUN_TYPE"):
        monkeypatch.delenv(key, raising=False)
    archive = frames_archive()
    checksum = base64.b64encode(hashlib.md5(archive).digest()).decode()
    server.answers["GetDataset"] = (200, {}, json.dumps({"currentVersionNumber": 3}).encode())
    server.answers["DownloadDataset"] = (200, {"x-goog-hash": f"md5={checksum}", "Accept-Ranges": "bytes"}, archive)
    yield server
    with warnings.catch_warnings():  # kagglehub leaves the response of a refused download open, in a reference cycle
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def tom_and_jerry(*overrides: str) -> Source:
    return load_source(compose("dataset=tom_and_jerry", *overrides).dataset)


def test_a_data_set_of_kaggle_is_downloaded_once_and_then_needs_no_server(kaggle: Server) -> None:
    source = tom_and_jerry()
    assert kaggle.asked == ["GetDataset", "DownloadDataset"]
    items, labels = source.splits["all"]
    assert source.classes == ["jerry", "tom", "tom_jerry_0", "tom_jerry_1"]
    assert {path.name: label for path, label in zip(items, labels, strict=True)} == {
        f"frame{i}.jpg": i // 7 % 4 for i in range(400)
    }
    assert source.notes == [
        "balabaskar/tom-and-jerry-image-classification from kaggle.com, version 3; "
        "dataset.handle=balabaskar/tom-and-jerry-image-classification/versions/3 pins it"
    ]
    kaggle.answers.clear()
    pinned = "dataset.handle=balabaskar/tom-and-jerry-image-classification/versions/3"
    assert tom_and_jerry().splits == tom_and_jerry(pinned).splits == source.splits
    assert len(kaggle.asked) == 2


def test_the_folder_inside_a_data_set_of_kaggle_can_be_named(kaggle: Server) -> None:
    source = tom_and_jerry("dataset.subfolder=tom_and_jerry/tom_and_jerry")
    assert len(source.classes) == 4
    with pytest.raises(
        ValueError, match=r"dataset.subfolder=frames is not in balabaskar/.*, which contains: tom_and_jerry"
    ):
        tom_and_jerry("dataset.subfolder=frames")


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (404, r"no such data set or version \(404\); compare it with kaggle.com/datasets/OWNER/NAME$"),
        (401, r"rejected the token \(401\)\ncreate a token at kaggle.com/settings .* ~/.kaggle/kaggle.json"),
        (
            403,
            r"\(403\): it does not exist, is private, or .*\n.*KAGGLE_USERNAME and KAGGLE_KEY, or KAGGLE_API_TOKEN, in",
        ),
        (500, r"kaggle.com returned an error \(500\); try again later"),
    ],
)
@pytest.mark.parametrize("request_name", ["GetDataset", "DownloadDataset"])
def test_what_kaggle_refuses_is_explained_in_two_lines(
    status: int, message: str, request_name: str, kaggle: Server
) -> None:
    kaggle.answers[request_name] = (status, {}, b"{}")
    with pytest.raises(OSError, match=message) as caught:
        tom_and_jerry()
    assert str(caught.value).startswith("dataset.handle=balabaskar/") and len(str(caught.value).splitlines()) <= 2


@pytest.mark.parametrize("damage", ["checksum", "truncated", "not an archive"])
def test_an_archive_of_kaggle_that_arrives_damaged_is_removed_and_asked_for_again(damage: str, kaggle: Server) -> None:
    _, headers, archive = whole = kaggle.answers["DownloadDataset"]
    kaggle.answers["DownloadDataset"] = {
        "checksum": (200, headers, archive + b"x"),
        "truncated": (200, {"Accept-Ranges": "bytes"}, archive[: len(archive) // 2]),
        "not an archive": (200, {}, b"<html>"),
    }[damage]
    with pytest.raises(OSError, match="the download was corrupted and has been deleted; start again"):
        tom_and_jerry()
    kaggle.answers["DownloadDataset"] = whole
    assert len(tom_and_jerry().splits["all"][1]) == 400


def test_without_a_connection_only_what_is_in_kagglehubs_cache_works(kaggle: Server, tmp_path: Path) -> None:
    kaggle.shutdown()
    kaggle.server_close()
    with pytest.raises(
        OSError, match=r"not in kagglehub's cache .* and kaggle.com cannot be reached: .*\ncheck the conn"
    ):
        tom_and_jerry()
    cached = tmp_path / "cache" / "datasets" / "balabaskar" / "tom-and-jerry-image-classification"
    for version, files in ((2, 10), (9, 12), (10, 8)):  # the newest one is not whole
        for i in range(files):
            layouts.touch(cached / "versions" / str(version) / "ab"[i % 2] / f"{i}.jpg")
        if version != 10:
            layouts.touch(cached / f"{version}.complete")
    assert len(tom_and_jerry().splits["all"][1]) == 12


def test_a_broken_credentials_file_is_named(kaggle: Server, tmp_path: Path) -> None:
    layouts.touch(tmp_path / "home" / "kaggle.json")
    with pytest.raises(ValueError, match=r"Invalid Kaggle credentials file at .*kaggle.json\ncreate a token at"):
        tom_and_jerry()
