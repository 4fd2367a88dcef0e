"""The page's server: the same numbers as the terminal, one address for one thing, and nothing for strangers."""

import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from helpers import COLORS, compose, compose_inference, make_picture, train_run
from PIL import Image
from test_predict import infer
from test_run import save_fake_run

from src.config.comments import read_comments
from src.config.compose import dump_config, load_config
from src.config.keys import list_keys
from src.config.overrides import quote_path
from src.config.schema import TrainConfig
from src.machine.disk import read_csv, read_object, write_csv, write_json
from src.machine.processes import start_time
from src.run import files
from src.run.saved import SavedRun, read_run
from src.web import exports
from src.web import jobs as jobs_module
from src.web import serve as serve_module
from src.web.app import build_app
from src.web.errors import PageError
from src.web.index import PAGE, make_id

LOCAL = {"127.0.0.1"}
BASE = "http://127.0.0.1:8000"


def open_client(*words: str, hosts: set[str] | None = LOCAL, token: str = "") -> Any:
    config = compose_inference("task=serve", "device=cpu", "serve.roots=['.']", *words)
    return TestClient(build_app(config, hosts, token), base_url=BASE, raise_server_exceptions=False)


@pytest.fixture(scope="module")
def place(photo_run: SavedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run on photos, whose test images are in it, and one on digits."""
    folder = tmp_path_factory.mktemp("page")
    shutil.copytree(photo_run.folder, folder / "outputs/photos")
    root = Path(read_object(photo_run.folder / files.STATUS)["root"])
    shutil.copytree(root, folder / "photos")
    table = folder / "outputs/photos" / files.TEST_PREDICTIONS
    rows = read_csv(table)
    for row in rows:
        row["file"] = f"photos/{row['image']}"
    write_csv(table, rows)
    size = ["model.embedding_dim=16", "model.num_layers=1", "model.num_heads=2", "training.epochs=1"]
    train_run(folder / "outputs/digits", "model=vit_nano", *size)
    return folder


@pytest.fixture
def client(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.chdir(place)
    with open_client() as client:
        yield client


def id_of(name: str) -> str:
    return make_id(Path("outputs") / name)


def picture_bytes(color: str = "red", seed: int = 1) -> bytes:
    file = io.BytesIO()
    make_picture(COLORS[color], seed).save(file, "PNG")
    return file.getvalue()


def names(answer: Any) -> list[str]:
    return [Path(row["name"]).name for row in answer.json()["rows"]]


# Runs.


def test_the_table_has_the_runs_of_the_terminal_with_filter_and_order(client: Any, place: Path) -> None:
    rows = client.get("/api/runs").json()["rows"]
    assert [row["number"] for row in rows] == [1, 2] and {row["status"] for row in rows} == {"finished"}
    run = read_run(place / "outputs/photos")
    (row,) = [row for row in rows if row["id"] == id_of("photos")]
    assert row["val_acc"] == run.val_acc and row["test_acc"] == run.number("test_acc")
    assert row["curve"] == run.history()["val_acc"]
    assert names(client.get("/api/runs", params={"filter": "dataset=digits"})) == ["digits"]
    assert names(client.get("/api/runs", params={"sort": "parameters"}))[0] == "photos"
    wrong = client.get("/api/runs", params={"filter": "val_ac>0.5"})
    assert wrong.status_code == 400 and wrong.json()["key"] == "filter" and "val_acc" in wrong.json()["error"]


def test_jobs_of_a_sweep_are_one_row_unless_runs_are_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(Path(__file__).parent / "saved/multirun", tmp_path / "multirun")
    save_fake_run(tmp_path / "outputs/a", "2026-01-03T00:00:00", 0.9)
    monkeypatch.chdir(tmp_path)
    with open_client() as client:
        rows = client.get("/api/runs").json()["rows"]
        assert [row["kind"] for row in rows].count("sweep") == 1
        (sweep,) = [row for row in rows if row["kind"] == "sweep"]
        detail = client.get(f"/api/sweeps/{sweep['id']}").json()
        assert len(detail["runs"]) == sweep["jobs"] and detail["runs"][0]["settings"]
        flat = client.get("/api/runs", params={"flat": True}).json()["rows"]
        assert [row["kind"] for row in flat] == ["run"] * len(flat)
        assert {row["sweep"] for row in flat} == {None, sweep["id"]}


def test_a_thousand_runs_come_in_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(1000):
        folder = tmp_path / f"outputs/{number:04d}"
        write_json(folder / files.STATUS, {"status": "finished", "started": f"2026-01-01T{number:05d}", "epoch": 1})
    monkeypatch.chdir(tmp_path)
    with open_client() as client:
        answer = client.get("/api/runs", params={"page": 20}).json()
    assert (answer["page"], answer["pages"], answer["total"], len(answer["rows"])) == (20, 20, 1000, PAGE)
    assert answer["rows"][-1]["number"] == 1000


def test_a_run_shows_what_was_typed_what_it_reached_and_how_to_use_it(client: Any, place: Path) -> None:
    run = client.get(f"/api/runs/{id_of('photos')}").json()
    changed = {row["key"]: row for row in run["config"]["changed"]}
    assert changed["model.embedding_dim"]["value"] == "16" and changed["model.embedding_dim"]["default"] != "16"
    assert "model.num_classes" not in changed and len(run["config"]["all"]) > 100
    assert run["classes"] == ["blue", "green", "red"] and run["input"] == {"height": 16, "width": 16, "channels": 3}
    tested = read_object(place / "outputs/photos" / files.TEST_METRICS)
    assert run["test"][0]["value"] == tested["accuracy"] and "95 % interval" in run["test"][0]["text"]
    assert run["predict_command"] == "python inference.py run=outputs/photos input=IMAGE"
    for file in [*run["figures"], *run["files"]]:
        assert client.get(file["url"]).content == (place / "outputs/photos" / file["name"]).read_bytes()


def test_only_new_epochs_are_sent(client: Any) -> None:
    address = f"/api/runs/{id_of('photos')}/metrics"
    everything = client.get(address).json()
    assert [row[0] for row in everything["rows"]] == [1, 2]
    assert client.get(address, params={"since": 1}).json()["rows"] == everything["rows"][1:]


def test_the_cells_of_the_confusion_matrix_are_the_images_behind_them(client: Any) -> None:
    address = f"/api/runs/{id_of('photos')}"
    matrix = client.get(f"{address}/confusion").json()
    total = 0
    for true, predicted, count in matrix["cells"]:
        classes = {"true": matrix["classes"][true], "predicted": matrix["classes"][predicted]}
        found = client.get(f"{address}/predictions", params=classes).json()
        assert found["total"] == count == len(found["rows"])
        assert all(row["correct"] == (true == predicted) for row in found["rows"])
        total += count
    assert total == sum(matrix["totals"])
    confident = client.get(f"{address}/predictions").json()["rows"]
    assert [row["confidence"] for row in confident] == sorted((r["confidence"] for r in confident), reverse=True)
    assert client.get(f"{address}/predictions", params={"order": "unsure"}).json()["rows"][0] == confident[-1]


def test_test_images_are_shown_with_what_the_model_saw_from_files_and_from_arrays(client: Any, place: Path) -> None:
    for name, side in (("photos", 16), ("digits", 8)):
        shown = client.get(f"/api/runs/{id_of(name)}/images/test/0", params={"size": 64})
        assert shown.headers["content-type"] == "image/png" and max(Image.open(io.BytesIO(shown.content)).size) <= 64
        (row,) = [
            row
            for row in client.get(f"/api/runs/{id_of(name)}/predictions", params={"size": 500}).json()["rows"]
            if row["index"] == 0
        ]
        result = client.get(f"/api/runs/{id_of(name)}/explain/test/0").json()
        assert result["class"] == row["predicted"] and result["class_true"] == row["class"]
        assert result["confidence"] == pytest.approx(row["confidence"], abs=2e-3)
        assert sum(map(sum, result["attention"])) > 0 and len(result["attention"]) == side // (4 if side == 16 else 2)


def test_an_image_that_is_gone_or_elsewhere_is_a_sentence(client: Any, place: Path, tmp_path: Path) -> None:
    table = place / "outputs/photos" / files.TEST_PREDICTIONS
    before = table.read_text()
    address = f"/api/runs/{id_of('photos')}/images/test"
    try:
        outside = tmp_path / "secret.png"
        make_picture((1, 2, 3), 0).save(outside)
        lines = before.splitlines()
        first = lines[1].split(",")
        table.write_text("\n".join([lines[0], ",".join([first[0], str(outside), *first[2:]]), *lines[2:]]) + "\n")
        refused = client.get(f"{address}/0")
        assert refused.status_code == 403 and "serve.roots" in refused.json()["error"]
        table.write_text(before.replace("photos/", "photos/gone-"))
        assert client.get(f"{address}/0").status_code == 404
        assert "gone" in client.get(f"{address}/0").json()["error"]
    finally:
        table.write_text(before)
    assert client.get(f"{address}/9999").status_code == 404


def test_damaged_and_odd_files_hide_nothing_else(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    odd = os.fsdecode(b"outputs/caf\xe9")
    shutil.copytree("outputs/photos", odd)
    shutil.copytree("outputs/photos", "outputs/linked")
    (place / "outputs/linked" / files.LOG).unlink()
    (place / "outputs/linked" / files.LOG).symlink_to("/etc/passwd")
    with (Path(odd) / files.TEST_PREDICTIONS).open("ab") as file:
        file.write(b"torn")
    write_json(Path(odd) / files.STATUS, read_run(Path(odd)).facts | {"model": "\udcff", "best_val_acc": float("nan")})
    try:
        with open_client() as client:
            answer = client.get("/api/runs").json()
            assert {row["id"] for row in answer["rows"]} == {id_of("photos"), id_of("digits"), make_id(Path(odd))}
            assert "its train.log is a link" in answer["problems"][0]
            address = f"/api/runs/{make_id(Path(odd))}"
            assert client.get(address).json()["run"]["model"] == "?" and client.get(f"{address}/log").status_code == 200
            table = client.get(f"{address}/predictions")
            assert table.status_code == 409 and "damaged" in table.json()["error"]
            page = client.get(f"/runs/{make_id(Path(odd))}", headers={"Accept": "text/html"})
            assert page.status_code == 200 and "NaN" not in page.text
            assert client.get(f"/api/runs/{id_of('linked')}/log").status_code == 404
    finally:
        shutil.rmtree(odd)
        shutil.rmtree("outputs/linked")


def test_a_strangers_run_downloads_nothing_and_reads_nothing_elsewhere(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr("src.web.images.load_source", pytest.fail)
    (place / "empty").mkdir(exist_ok=True)
    (place / "empty/file").touch()
    for words in (
        ["dataset=kaggle", "dataset.handle=a/b"],
        ["dataset=cifar10", f"dataset.root={place}/empty"],
        ["dataset=cifar10", f"dataset.root={tmp_path}"],
        ["dataset=csv", "dataset.table=/etc/passwd", "dataset.label_column=x", "dataset.path_column=y"],
    ):
        shutil.copytree("outputs/digits", "outputs/stranger")
        config = load_config(Path("outputs/stranger/config.yaml"))
        other = compose(*words).dataset
        (place / "outputs/stranger/config.yaml").write_text(dump_config(replace(config, dataset=other)))
        with open_client() as client:
            answer = client.get(f"/api/runs/{id_of('stranger')}/images/test/0")
        shutil.rmtree("outputs/stranger")
        assert answer.status_code in (403, 404), (words, answer.text)


def test_a_run_that_is_deleted_while_it_is_open_is_a_sentence(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    shutil.copytree("outputs/photos", "outputs/gone")
    with open_client() as client:
        address = f"/api/runs/{id_of('gone')}"
        assert client.get(address).status_code == 200
        shutil.rmtree("outputs/gone")
        for part in ("", "/metrics", "/log", "/confusion", "/predictions", "/images/test/0", "/files/config.yaml"):
            answer = client.get(address + part)
            assert answer.status_code in (200, 404) and "bug" not in answer.text, (part, answer.text)
        monkeypatch.setattr("src.web.index.FRESH", 0.0)
        page = client.get(f"/runs/{id_of('gone')}", headers={"Accept": "text/html"})
        assert page.status_code == 404 and "moved or deleted" in page.text


def test_runs_are_compared_as_in_the_terminal(client: Any) -> None:
    answer = client.get("/api/compare", params={"run": [id_of("photos"), id_of("digits")]}).json()
    assert [part["heading"] for part in answer["sections"]][:2] == ["Differences in the configurations", "Results"]
    assert {curve["label"] for curve in answer["curves"]} == {"photos", "digits"}
    alone = client.get("/api/compare", params={"run": [id_of("photos")]})
    assert alone.status_code == 400 and "at least two" in alone.json()["error"]


# Predictions.


def predict(client: Any, *contents: bytes, **query: Any) -> Any:
    files = [("files", (f"{number}.png", content)) for number, content in enumerate(contents)]
    return client.post("/api/predict", params={"run": id_of("photos"), **query}, files=files)


def test_predictions_are_those_of_inference_to_the_last_digit(client: Any, place: Path, tmp_path: Path) -> None:
    paths = sorted((place / "photos").rglob("[0-9]*.png"))[:9]
    done = infer(place, "run=outputs/photos", f"input={place}/photos/*/0[0-2].png", f"output={tmp_path}/out.csv")
    assert done.returncode == 0, done.stderr
    expected = {row["file"]: row for row in read_csv(tmp_path / "out.csv")}
    for path in expected:
        (result,) = predict(client, Path(path).read_bytes()).json()["results"]
        row = expected[path]
        assert [(top["class"], str(top["confidence"])) for top in result["top"]] == [
            (row[f"class{suffix}"], row[f"confidence{suffix}"]) for suffix in ("", "_2", "_3")
        ]
    together = predict(client, *(Path(path).read_bytes() for path in expected)).json()["results"]
    assert [result["class"] for result in together] == [row["class"] for row in expected.values()]
    assert len(paths) == len(expected)


def test_one_broken_file_among_good_ones_is_named_and_only_broken_ones_are_an_error(client: Any) -> None:
    answer = predict(client, picture_bytes(), b"not an image")
    good, bad = answer.json()["results"]
    assert answer.status_code == 200 and good["error"] is None and bad["class"] is None
    assert bad["error"].startswith("1.png: ")
    alone = predict(client, b"not an image")
    assert alone.status_code == 422 and "not an image" in alone.json()["error"]


def test_runs_are_named_by_best_latest_and_number(client: Any) -> None:
    chosen = {wanted: predict(client, picture_bytes(), run=wanted).json()["run"]["name"] for wanted in ("1", "2")}
    assert set(chosen.values()) == {"outputs/photos", "outputs/digits"}
    latest = predict(client, picture_bytes(), run="latest").json()["run"]["name"]
    assert latest == chosen["1"]
    missing = predict(client, picture_bytes(), run="nothing")
    assert missing.status_code == 404 and missing.json()["error"].startswith("there is no run nothing")


def test_two_hundred_requests_at_once_get_their_own_answers(client: Any) -> None:
    contents = [picture_bytes(color, seed) for seed in range(67) for color in COLORS][:200]
    alone = [predict(client, content).json()["results"][0] for content in contents[:6]]
    with ThreadPoolExecutor(200) as pool:
        answers = list(pool.map(lambda content: predict(client, content), contents))
    assert {answer.status_code for answer in answers} == {200}
    for one, answer in zip(alone, answers[:6], strict=True):
        (result,) = answer.json()["results"]
        assert result["class"] == one["class"] and result["confidence"] == pytest.approx(one["confidence"], abs=2e-6)


def test_a_slow_prediction_does_not_keep_the_page_waiting(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from src.predict.predictor import Predictor

    begun, go_on = threading.Event(), threading.Event()
    original = Predictor.predict

    def wait(self: Predictor, images: Any) -> Any:
        begun.set()
        go_on.wait(60)
        return original(self, images)

    monkeypatch.setattr(Predictor, "predict", wait)
    with ThreadPoolExecutor(60) as pool:
        slow = [pool.submit(predict, client, picture_bytes()) for _ in range(45)]
        assert begun.wait(60)
        assert client.get("/api/runs").status_code == client.get("/health").status_code == 200
        assert not any(one.done() for one in slow)
        go_on.set()
        assert {one.result().status_code for one in slow} == {200}


def test_too_many_waiting_images_are_refused(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.web.predictions.MOST_WAITING", 0)
    assert predict(client, picture_bytes()).status_code == 503


def test_hosting_services_get_what_they_expect(client: Any) -> None:
    assert client.get("/ping").status_code == 200 and client.get("/health").json() == {"status": "ok"}
    answer = client.post("/invocations", params={"run": id_of("photos")}, content=picture_bytes("blue"))
    assert answer.json()["class"] == predict(client, picture_bytes("blue")).json()["results"][0]["class"]
    assert client.post("/invocations", content=b"x").status_code == 422


# Strangers.


def bomb(side: int = 30_000) -> bytes:
    """Return a PNG of some bytes that claims a billion pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(10_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_large_requests_many_files_and_bombs_are_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    with open_client("serve.max_megabytes=1", "serve.max_files=2") as client:
        large = predict(client, bytes(2**20 + 1))
        assert large.status_code == 413 and "serve.max_megabytes" in large.json()["error"]
        chunked = client.post("/invocations", content=(bytes(2**16) for _ in range(1600)))
        assert chunked.status_code == 413
        assert client.post("/api/start", content=bytes(2**20 + 1)).status_code == 413
        assert predict(client, *[picture_bytes()] * 3).status_code == 413
        explained = predict(client, bomb())
        assert explained.status_code == 422 and "serve.max_pixels" in explained.json()["error"]


def test_another_page_can_neither_start_nor_read_anything(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", pytest.fail)
    words = {"words": ["model=vit_nano"]}
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:9000"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ):
        assert client.post("/api/start", json=words, headers=headers).status_code == 403, headers
    assert client.get("/api/runs", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert client.get("/api/runs", headers={"Host": "evil.example"}).status_code == 400
    assert client.get("/api/runs", headers={"Host": "127.0.0.1.evil.example:8000"}).status_code == 400
    # A form of another page cannot send JSON without asking first.
    assert client.post("/api/start", data={"words": "model=vit_nano"}).status_code == 422
    assert client.get("/api/runs", headers={"Origin": BASE, "Sec-Fetch-Site": "same-origin"}).status_code == 200


def test_a_page_for_others_needs_the_token(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    with open_client(hosts=None, token="abc") as client:
        assert client.get("/api/runs").status_code == 401 and client.get("/ping").status_code == 200
        assert client.get("/api/runs", headers={"Authorization": "Bearer abd"}).status_code == 401
        assert client.get("/api/runs", headers={"Authorization": "Bearer abc"}).status_code == 200
        assert client.get("/?token=wrong").status_code == 401
        opened = client.get("/?token=abc", follow_redirects=False)
        assert opened.status_code == 303 and opened.headers["location"] == "/"
        cookie = opened.headers["set-cookie"].lower()
        assert "httponly" in cookie and "samesite=strict" in cookie
        assert client.get("/api/runs").status_code == 200  # with the cookie


def test_a_read_only_page_shows_and_predicts_but_starts_and_stops_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr(subprocess, "Popen", pytest.fail)
    run = f"/api/runs/{id_of('photos')}"
    with open_client("serve.read_only=true") as client:
        assert predict(client, picture_bytes()).status_code == client.get(run).status_code == 200
        for address in ("/api/start", "/api/check", "/api/reports", f"{run}/stop", f"{run}/resume"):
            answer = client.post(address, json={"words": []})
            assert answer.status_code == 403 and "serve.read_only=true" in answer.json()["error"], address
        assert client.get("/api/folders").status_code == 403


def test_paths_lead_nowhere_else(client: Any, place: Path) -> None:
    run = f"/api/runs/{id_of('photos')}"
    (place / "outputs/photos/secret.txt").write_text("secret")
    for name in ("secret.txt", "../digits/config.yaml", "..%2f..%2fphotos", "%2e%2e/digits/status.json", "checkpoints"):
        assert client.get(f"{run}/files/{name}").status_code == 404, name
    for name in ("../src/web/serve.py", "..%2fapp.py", "%2e%2e/app.py"):
        assert client.get(f"/static/{name}").status_code == 404, name
    log = place / "outputs/photos" / files.LOG
    kept = log.read_bytes()
    log.unlink()
    log.symlink_to(place / "outputs/photos/secret.txt")
    try:
        assert client.get(f"{run}/files/{files.LOG}").status_code == 404
    finally:
        log.unlink()
        log.write_bytes(kept)
    refused = client.get("/api/folders", params={"path": str(place.parent)})
    assert refused.status_code == 403 and "serve.roots" in refused.json()["error"]
    found = client.get("/api/folders", params={"path": str(place / "pho")}).json()
    assert [folder["name"] for folder in found["folders"]] == ["photos"]
    assert client.get("/api/folders", params={"path": str(place / "photos/red")}).json()["images"] == 12


def test_names_of_strangers_are_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evil = "</script><img src=x onerror=alert(1)>"
    folder = save_fake_run(tmp_path / "outputs/a", "2026-01-03T00:00:00", 0.9, dataset=evil)
    write_json(folder / files.CLASSES, [evil, "b"])
    write_json(folder / files.STATUS, read_run(folder).facts | {"model": evil, "error": evil, "status": "failed"})
    monkeypatch.chdir(tmp_path)
    with open_client() as client:
        for address in ("/", f"/runs/{make_id(Path('outputs/a'))}"):
            page = client.get(address, headers={"Accept": "text/html"})
            assert page.status_code == 200 and "<img src=x" not in page.text and "alert(1)" in page.text
            policy = page.headers["content-security-policy"]
            assert policy.startswith("default-src 'self';") and "unsafe" not in policy
        text = client.get("/nothing/<img src=x>", headers={"Accept": "text/html"}).text
        assert "<img src=x>" not in text


def test_only_values_of_our_keys_reach_the_command_line(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", pytest.fail)
    monkeypatch.setattr(subprocess, "Popen", pytest.fail)
    for word, key in (
        ("hydra.run.dir=/tmp/x", "hydra.run.dir"),
        ("+hydra.callbacks.x={_target_:os.system}", "hydra.callbacks.x"),
        ("--config-dir=/tmp", None),
        ("hydra/launcher=joblib", "hydra/launcher"),
        ("~model.dropout", None),
        ("model.num_layers=${oc.env:HOME}", "model.num_layers"),
        ("resume=outputs/photos", "resume"),
        ("check=/tmp/x", "check"),
        ("dataset.root=/etc", "dataset.root"),
        ("dataset.cache_dir=/var/tmp", "dataset.cache_dir"),
        ("model.depth=3", "model.depth"),
        ("sweep.parallel=1000", "sweep.parallel"),
        ("model.num_layers=3\nseed=1", None),
    ):
        for address in ("/api/check", "/api/start", "/api/reports", f"/api/runs/{id_of('photos')}/resume"):
            answer = client.post(address, json={"words": [word]})
            assert answer.status_code in (400, 403), (word, address, answer.text)
            assert key is None or answer.json()["key"] == key, (word, answer.text)


def test_a_run_that_names_the_process_of_another_program_does_not_stop_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    folder = save_fake_run(tmp_path / "outputs/a", "2026-01-03T00:00:00", 0.9)
    monkeypatch.chdir(tmp_path)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        facts = {"status": "running", "pid": process.pid, "host": socket.gethostname()}
        facts["process_started"] = start_time(process.pid)
        write_json(folder / files.STATUS, read_run(folder).facts | facts)
        with open_client() as client:
            answer = client.post(f"/api/runs/{make_id(Path('outputs/a'))}/stop", json={})
        assert answer.status_code == 409 and "it was not stopped" in answer.json()["error"]
        assert process.poll() is None
        process.communicate(b"\n")
    assert process.returncode == 0


# Training.


class Process:
    """A process that was not started."""

    pid = 10**9  # of no process
    returncode = None

    def __init__(self, command: list[str], **options: Any) -> None:
        self.command, self.options = command, options

    def poll(self) -> None:
        return None


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Process]:
    """The processes that would have been started."""
    found: list[Process] = []

    def start(command: list[str], **options: Any) -> Process:
        found.append(Process(command, **options))
        return found[-1]

    monkeypatch.setattr(jobs_module.subprocess, "Popen", start)
    monkeypatch.setattr(jobs_module.Jobs, "check", lambda self, words: self.check_words(words))
    return found


def test_training_is_the_command_that_is_shown_in_a_session_of_its_own(client: Any, started: list[Process]) -> None:
    answer = client.post("/api/start", json={"words": ["dataset=image_folder", "dataset.root=photos", "seed=1"]})
    assert answer.status_code == 201
    assert answer.json()["command"] == "python train.py dataset=image_folder dataset.root=photos seed=1"
    (process,) = started
    assert process.command[1:] == [str(jobs_module.TRAIN), "dataset=image_folder", "dataset.root=photos", "seed=1"]
    assert process.options["start_new_session"] is True and process.options["stdin"] == subprocess.DEVNULL
    assert client.get("/api/starts").json()["starts"][0]["state"] == "starting"


def test_a_start_behind_a_running_one_is_a_job_of_a_queue(
    client: Any, started: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    running = SavedRun(Path("outputs/running"), "running", {})
    monkeypatch.setattr(jobs_module.Jobs, "list_running", lambda self: [running])
    client.post("/api/start", json={"words": ["seed=1"], "queue": True})
    client.post("/api/start", json={"words": ["seed=2"], "queue": True})
    first, second = (process.command[2:] for process in started)
    assert first[:3] == ["--multirun", "sweep.append=true", "sweep.isolate=true"]
    assert first[3].startswith("hydra.sweep.dir=multirun/") and first[3] == second[3]
    assert first[4:] == ["sweep.after=outputs/running", "seed=1"] and second[-1] == "seed=2"


def test_mistakes_are_answered_as_the_command_line_does_at_their_key(client: Any) -> None:
    answer = client.post("/api/check", json={"words": ["model.patch_size=3", "model=vit_nano"]})
    assert answer.status_code == 400 and answer.json()["key"] == "model.patch_size"
    assert answer.json()["error"].endswith("patch sizes that fit: 1, 2, 4, 8")
    fine = client.post("/api/check", json={"words": ["model=vit_nano"]})
    assert fine.json() == {"command": "python train.py model=vit_nano"}


def test_a_run_is_resumed_in_its_folder_and_one_that_has_ended_is_not_stopped(
    client: Any, started: list[Process]
) -> None:
    run = f"/api/runs/{id_of('digits')}"
    assert client.post(f"{run}/stop", json={}).status_code == 409
    assert client.post(f"{run}/resume", json={"words": ["training.epochs=2"]}).status_code == 201
    assert started[0].command[2:] == ["resume=outputs/digits", "training.epochs=2"]


def test_every_key_has_a_field_with_its_type_range_and_help(client: Any) -> None:
    form = client.get("/api/options").json()
    fields = {field["key"]: field for field in form["fields"]}
    groups = {key.rpartition(".")[0] for key in list_keys(TrainConfig)}
    expected = {key for key in list_keys(TrainConfig) if key not in groups and not key.endswith(".name")}
    assert set(fields) == {key for key in expected if not key.startswith(("sweep.", "resume", "check"))}
    dropout = fields["model.dropout"]
    assert (dropout["type"], dropout["low"], dropout["nullable"]) == ("float", 0, False)
    assert fields["training.precision"]["choices"] == ["auto", "bf16", "fp16", "float32"]
    assert fields["training.epochs"]["help"] == read_comments()["training.epochs"]
    assert "10 to 300" in fields["training.epochs"]["help"]
    assert "dataset.root" in form["keys"]["dataset"]["image_folder"]
    assert "dataset.root" not in form["keys"]["dataset"]["digits"]
    assert {option["name"] for option in form["groups"]["model"]} >= {"auto", "vit_small"}


# Exports.


@pytest.fixture
def exported(place: Path) -> Iterator[Path]:
    """The folder of the exports of the run on photos, with files as an export leaves them, and others."""
    folder = place / "outputs/photos" / files.EXPORTS
    (folder / "hf").mkdir(parents=True)
    for name in ("model.onnx", "hf/config.json", "README.md", "secret.txt", "config.html"):
        (folder / name).write_text(f"<script>{name}</script>")
    facts = {"max_probability_difference": 1e-7, "same_class": 1.0, "images": 64, "files": {"../../config.yaml": {}}}
    formats = {"onnx": facts, "hf": "odd", "evil": facts}
    write_json(folder / "parity.json", {"formats": formats, "best_epoch": 77})
    yield folder
    shutil.rmtree(folder)


def test_exported_files_are_downloads_never_pages(client: Any, exported: Path) -> None:
    found = client.get(f"/api/runs/{id_of('photos')}").json()["exports"]
    assert [file["name"] for file in found["files"]] == ["README.md", "parity.json", "hf/config.json", "model.onnx"]
    for file in found["files"]:
        answer = client.get(file["url"])
        assert answer.content == (exported / file["name"]).read_bytes() and len(answer.content) == file["bytes"]
        assert answer.headers["content-disposition"].startswith("attachment")
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"].startswith("sandbox")
    (row,) = found["agreement"]
    assert (row["format"], row["difference"], row["same"], row["images"]) == ("onnx", 1e-7, 1.0, 64)
    assert found["command"] == "python inference.py task=export run=outputs/photos"
    assert found["outdated"].startswith("These files have the weights of epoch 77;")


def test_exports_lead_nowhere_else(client: Any, exported: Path, tmp_path: Path) -> None:
    address = f"/api/runs/{id_of('photos')}/exports"
    for name in ("secret.txt", "config.html", "../config.yaml", "..%2fconfig.yaml", "%2e%2e/status.json", "hf"):
        assert client.get(f"{address}/{name}").status_code in (404, 405), name
    (tmp_path / "config.json").write_text("secret")
    (exported / "config.json").symlink_to(tmp_path / "config.json")
    (exported / "hf/config.json").unlink()
    (exported / "hf").rmdir()
    (exported / "hf").symlink_to(tmp_path)
    for name in ("config.json", "hf/config.json"):
        assert client.get(f"{address}/{name}").status_code == 404
    assert [file["name"] for file in client.get(address).json()["files"]] == ["README.md", "parity.json", "model.onnx"]
    (exported / "hf").unlink()
    moved = exported.rename(exported.with_name("moved"))
    exported.symlink_to(moved)
    assert client.get(f"{address}/model.onnx").status_code == 404
    found = client.get(address).json()
    exported.unlink()
    moved.rename(exported)
    assert found["files"] == [] and found["agreement"] == []


def test_an_export_is_the_command_that_is_shown_once_at_a_time(client: Any, started: list[Process]) -> None:
    address = f"/api/runs/{id_of('photos')}/exports"
    answer = client.post(address, json={"formats": ["timm", "pt2", "timm"]})
    assert answer.status_code == 201 and answer.json()["state"] == "exporting"
    assert answer.json()["command"] == "python inference.py task=export run=outputs/photos 'formats=[timm,pt2]'"
    (process,) = started
    words = ["task=export", "run=outputs/photos", "formats=[timm,pt2]"]
    assert process.command[1:] == [str(jobs_module.INFERENCE), *words]
    assert process.options["start_new_session"] is True and process.options["stdin"] == subprocess.DEVNULL
    again = client.post(address, json={"formats": ["timm"]})
    assert again.status_code == 409 and "this run is being exported" in again.json()["error"]
    other = client.post(f"/api/runs/{id_of('digits')}/exports", json={"formats": ["timm"]})
    assert other.status_code == 409 and "another run is being exported" in other.json()["error"]
    assert client.get(address).json()["started"]["id"] == answer.json()["id"]
    assert client.get("/api/starts").json()["starts"] == []  # those train
    assert client.post("/api/start", json={"words": ["seed=1"], "queue": True}).status_code == 201


def test_a_failed_export_says_why(client: Any, started: list[Process]) -> None:
    start = client.post(f"/api/runs/{id_of('photos')}/exports", json={"formats": ["hf"]}).json()
    started[0].options["stdout"].write(b"run  outputs/photos\nerror: formats=[hf]: no model.pooling=mean\n")
    started[0].options["stdout"].flush()
    started[0].poll = lambda: 1  # type: ignore[method-assign, assignment]
    now = client.get(f"/api/starts/{start['id']}").json()
    assert (now["state"], now["error"]) == ("ended", "formats=[hf]: no model.pooling=mean")
    started[0].poll = lambda: -9  # type: ignore[method-assign, assignment]
    now = client.get(f"/api/starts/{start['id']}").json()
    assert now["error"] == "it was killed, probably because the machine was out of memory"


def test_an_export_that_cannot_be_is_refused_before_it_starts(
    client: Any, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "Popen", pytest.fail)
    address = f"/api/runs/{id_of('photos')}/exports"
    for formats in ([], ["pickle"], ["timm,hydra.run.dir=/tmp"], ["../timm"]):
        answer = client.post(address, json={"formats": formats})
        assert answer.status_code == 400 and answer.json()["key"] == "formats", formats
    assert client.post(address, json={"formats": "timm"}).status_code == 422
    other = client.post(address, json={"formats": ["timm"]}, headers={"Origin": "http://evil.example"})
    assert other.status_code == 403
    monkeypatch.setattr("src.web.exports.find_spec", lambda name: None)
    missing = client.post(address, json={"formats": ["onnx"]})
    assert missing.status_code == 400 and "pip install -r requirements-export.txt" in missing.json()["error"]
    save_fake_run(place / "outputs/new", "2026-01-03T00:00:00", 0.9)
    (place / "outputs/new" / files.BEST).unlink()
    try:
        monkeypatch.setattr("src.web.index.FRESH", 0.0)
        early = client.post(f"/api/runs/{id_of('new')}/exports", json={"formats": ["timm"]})
        assert early.status_code == 409 and "no weights yet" in early.json()["error"]
    finally:
        shutil.rmtree(place / "outputs/new")
    with open_client("serve.read_only=true") as reader:
        assert reader.get(address).status_code == 200
        refused = reader.post(address, json={"formats": ["timm"]})
        assert refused.status_code == 403 and "serve.read_only=true" in refused.json()["error"]


def test_the_formats_of_the_page_are_those_of_the_task() -> None:
    from src.export import hf_folder, onnx_files, onnx_int8, timm_folder, torch_files, web_page
    from src.export.card import CARD, COPIES, RECIPE
    from src.export.formats import FORMATS
    from src.run.files import PARITY

    assert {name: choice.needs for name, choice in exports.CHOICES.items()} == {
        name: chosen.needs for name, chosen in FORMATS.items()
    }
    assert set(exports.CARD) == {CARD, RECIPE, PARITY, *(Path(name).name for name in COPIES)}
    hf = (hf_folder.CONFIG, hf_folder.WEIGHTS, hf_folder.PROCESSOR)
    assert {name: set(choice.files) for name, choice in exports.CHOICES.items()} == {
        "timm": {timm_folder.CONFIG, timm_folder.WEIGHTS},
        "hf": {f"{hf_folder.FOLDER}/{name}" for name in hf},
        "pt2": {torch_files.EXPORTED},
        "torchscript": {torch_files.TRACED},
        "onnx": {onnx_files.PICTURE, onnx_files.BATCH},
        "onnx-int8": {onnx_int8.INT8},
        "web": {web_page.PAGE},
    }


# The page and its address.


def test_pages_ask_nothing_of_other_machines(client: Any) -> None:
    static = Path(serve_module.__file__).parent / "static"
    for path in [path for path in static.rglob("*") if path.suffix in (".js", ".css")]:
        addresses = set(re.findall(r"""(?:url\(|["'`])\s*(https?://[^"'`)\s]+)""", path.read_text()))
        assert addresses <= {"http://www.w3.org/2000/svg"}, path
    for address in ("/", "/predict", "/train", "/docs", f"/runs/{id_of('photos')}", "/compare"):
        page = client.get(address, headers={"Accept": "text/html"})
        assert page.status_code == 200, address
        assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", page.text), address
        assert not re.search(r"<script(?![^>]*(src=|application/json))|\son\w+=|\sstyle=", page.text), address


def test_the_description_of_the_api_names_each_address(client: Any) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert {
        "/api/runs",
        "/api/predict",
        "/api/start",
        "/api/runs/{run}/stop",
        "/health",
        "/ping",
        "/api/runs/{run}/exports",
    } <= set(paths)
    for path, operations in paths.items():
        for operation in operations.values():
            assert operation["summary"][0].isupper(), path


def test_a_bug_is_json_that_says_so(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise RuntimeError("oh")

    monkeypatch.setattr("src.web.index.RunIndex.list_rows", fail)
    answer = client.get("/api/runs")
    assert answer.status_code == 500 and "RuntimeError: oh" in answer.json()["error"]


def test_without_its_libraries_the_page_names_the_command(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    done = infer(place, "task=serve")
    assert done.returncode == 1 and "pip install -r requirements-web.txt" in done.stderr


def test_a_port_in_use_is_answered_with_another_one(place: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = infer(place, "task=serve", f"serve.port={port}", "serve.open_browser=false")
    assert done.returncode == 1 and f"serve.port={port}" in done.stderr and "serve.port=0" in done.stderr


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("[~,/data]", ["~", "/data"]),
        ("/data", ["/data"]),
        ("[/my photos,/a=b]", ["/my photos", "/a=b"]),
        ("['~',.]", ["~", "."]),
    ],
)
def test_folders_are_typed_as_they_are(typed: str, meant: list[str]) -> None:
    assert compose_inference("task=serve", quote_path(f"serve.roots={typed}")).serve.roots == meant


def test_settings_that_would_let_everyone_in_are_refused(place: Path) -> None:
    done = infer(place, "task=serve", "serve.host=0.0.0.0", "serve.token=off")
    assert done.returncode == 1 and "serve.read_only=true" in done.stderr
    assert infer(place, "task=serve", "input=x.png").returncode == 1


def test_an_error_of_the_command_line_is_told_with_its_key() -> None:
    output = "device cpu\nerror: training.lr=x is not a number\n  in the job training.lr=x\n"
    problem = jobs_module.explain_output(output, ["seed=1", "training.lr=x"])
    assert isinstance(problem, PageError) and problem.key == "training.lr"
    assert problem.message == "training.lr=x is not a number\n  in the job training.lr=x"
    assert json.dumps(jobs_module.explain_output("", []).message)


def test_the_first_page_does_not_wait_for_torch_or_matplotlib() -> None:
    code = "import sys, src.web.app; print(*{'torch', 'torchvision', 'matplotlib', 'sklearn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=jobs_module.TRAIN.parent, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == ""
