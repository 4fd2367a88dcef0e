"""The page in a real browser: Debian's Chromium, driven by Playwright. Left out, and said so, where there is none."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from helpers import CHROMIUM, COLORS, make_folder, make_picture, train_run

from src.machine.disk import read_csv, read_object
from src.run.files import METRICS, STATUS
from src.web.index import make_id

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt install chromium"),
    pytest.mark.timeout(600),
]
ROOT = Path(__file__).resolve().parents[1]
TINY = {"model.embedding_dim": "16", "model.num_layers": "2", "model.num_heads": "2", "training.epochs": "40"}


class Server:
    """`python inference.py task=serve` in a folder, which can be killed and started again on the same port."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, 0
        self.start()

    def start(self) -> None:
        words = ["task=serve", f"serve.port={self.port}", "serve.open_browser=false", "device=cpu"]
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "inference.py"), *words],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", line)
        assert found, line
        self.address, self.port = found[0].rstrip("/"), int(found[1])
        wait_until(self.answers)

    def answers(self) -> bool:
        with suppress(OSError):
            return urllib.request.urlopen(f"{self.address}/health", timeout=5).status == 200
        return False

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def wait_until(condition: Callable[[], Any], seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.1)
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("browser")
    make_folder(folder / "photos")
    train_run(folder / "outputs/first", *(f"{key}={value}" for key, value in {**TINY, "training.epochs": "1"}.items()))
    server = Server(folder)
    yield server
    for status in folder.rglob(STATUS):  # a test that failed may have left a run
        facts = read_object(status)
        if facts.get("status") == "running":
            with suppress(OSError):
                os.kill(facts["pid"], signal.SIGKILL)
    server.kill()


@pytest.fixture
def page(server: Server, browser: Any) -> Iterator[Any]:
    """A page on which no script fails and from which nothing asks another machine."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(120_000)
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: problems.append(request.url) if is_foreign(request.url, server) else None)
    page.on("console", lambda message: problems.append(message.text) if "Content Security" in message.text else None)
    yield page
    context.close()
    assert problems == []


def is_foreign(url: str, server: Server) -> bool:
    return not url.startswith((server.address, "blob:"))


def check_access(page: Any) -> None:
    """Let axe look for what people with a keyboard or a screen reader could not use."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    serious = [rule["id"] for rule in found if rule["impact"] in ("serious", "critical")]
    assert serious == [], [node["html"] for rule in found for node in rule["nodes"]][:3]


def type_into(page: Any, key: str, value: str) -> None:
    page.fill(f"#field-{key.replace('.', '-')}", value)


def run_of(page: Any, server: Server) -> Path:
    page.wait_for_url(re.compile(r"/runs/\w+$"))
    identity = page.url.rsplit("/", 1)[1]
    answer = urllib.request.urlopen(f"{server.address}/api/runs/{identity}").read()
    return Path(json.loads(answer)["run"]["folder"])


def status_of(folder: Path) -> str:
    return str(read_object(folder / STATUS).get("status"))


def test_train_watch_stop_resume_restart_and_look_at_the_mistakes(page: Any, server: Server) -> None:
    page.goto(f"{server.address}/train")
    page.wait_for_selector("#command code")
    page.select_option("#field-source", "known")
    page.click("#more > summary")
    for key, value in TINY.items():
        page.fill("#search", key)
        type_into(page, key, value)
    # A mistake is told at its field, and starts nothing.
    page.fill("#search", "patch_size")
    type_into(page, "model.patch_size", "3")
    page.wait_for_selector("#field-model-patch_size-error:not([hidden])")
    assert "patch sizes that fit: 1, 2, 4, 8" in page.inner_text("#field-model-patch_size-error")
    type_into(page, "model.patch_size", "")
    words = " ".join(f"{key}={value}" for key, value in TINY.items())
    assert set(page.inner_text("#command code").split()) == {"python", "train.py", *words.split()}
    page.click("#start")
    folder = run_of(page, server)

    # The curve moves while it trains.
    wait_until(lambda: page.evaluate("document.querySelectorAll('#curves canvas').length === 3"))
    page.locator("#curves details summary").first.click()
    rows = page.locator("#curves details").first.locator("tbody tr")
    wait_until(lambda: rows.count() > 1)
    before = rows.count()
    wait_until(lambda: rows.count() > before)
    assert "running" in page.inner_text("#head .status")

    # Stop stops, resume goes on.
    page.click("#head button:has-text('Stop')")
    wait_until(lambda: status_of(folder) == "stopped")
    page.wait_for_selector("#head .status.stopped")
    done = len(read_csv(folder / METRICS))
    assert done < 40
    page.click("#head button:has-text('Resume')")
    page.wait_for_selector("#head .status.running")

    # The server is killed; training goes on, and everything is there after a restart.
    server.kill()
    page.wait_for_selector("#messages .error")
    wait_until(lambda: len(read_csv(folder / METRICS)) > done)
    server.start()
    page.wait_for_selector("#head .status.finished")
    assert [int(row["epoch"]) for row in read_csv(folder / METRICS)] == list(range(1, 41))
    page.wait_for_selector("#matrix button")

    # A cell of the confusion matrix opens its images, one of them what the model saw.
    cell = page.locator("#matrix button").first
    expected = int(cell.inner_text())
    cell.click()
    page.wait_for_selector("dialog[open] .gallery img")
    assert page.locator("dialog[open] .gallery li").count() == expected
    page.locator("dialog[open] .gallery button").first.click()
    page.wait_for_selector("dialog[open] canvas")
    assert page.locator("dialog[open] .bars .name").count() == 5
    assert page.evaluate("document.querySelector('dialog[open] img').naturalWidth") > 0
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0
    page.focus("#matrix button[tabindex='0']")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.closest('#matrix') !== null")
    check_access(page)


def test_photos_are_found_looked_at_and_trained_on_behind_another_run(page: Any, server: Server) -> None:
    page.goto(f"{server.address}/train")
    page.wait_for_selector("#command code")
    page.fill("#root", str(server.folder / "pho"))
    page.wait_for_selector("#root-list li:text-is('photos')")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.input_value("#root") == f"{server.folder}/photos/"
    wait_until(lambda: page.evaluate("document.querySelector('#command code').textContent.includes('dataset.root=')"))
    page.click("#look")
    page.wait_for_selector("#report img")
    assert page.locator("#report img").count() == 2
    wait_until(
        lambda: page.evaluate(
            "[...document.querySelectorAll('#report img')].every((image) => image.naturalWidth > 100)"
        )
    )
    assert "36" in page.inner_text("#report table") or "all" in page.inner_text("#report table")
    check_access(page)
    # A folder that is not there is told at its field.
    page.fill("#root", str(server.folder / "fotos"))
    page.wait_for_selector("#root-problem:not([hidden])")
    assert "fotos" in page.inner_text("#root-problem")
    page.fill("#root", str(server.folder / "photos"))
    page.click("#more > summary")
    for key, value in {**TINY, "training.epochs": "40", "dataset.image_size": "16"}.items():
        page.fill("#search", key)
        type_into(page, key, value)
    page.select_option("#field-model", "vit_nano")
    page.click("#start")
    first = run_of(page, server)
    # While it trains, another start waits for it, as a job of a queue.
    page.goto(
        f"{server.address}/train?words={json.dumps([f'{k}={v}' for k, v in TINY.items()] + ['training.epochs=2'])}"
    )
    page.click("#queue")
    page.wait_for_url(re.compile(r"/sweeps/\w+$"))
    wait_until(lambda: status_of(first) == "finished")
    page.wait_for_selector("#head .status.finished")
    (job,) = (path for path in (server.folder / "multirun").rglob(STATUS))
    assert read_object(job)["status"] == "finished"
    assert read_object(job)["started"] >= read_object(first / STATUS)["started"]
    check_access(page)


def test_dropped_pasted_and_broken_images_are_answered(page: Any, server: Server, tmp_path: Path) -> None:
    page.goto(f"{server.address}/predict")
    wait_until(lambda: page.locator("#run option").count() > 1)
    page.select_option("#run", make_id(server.folder / "outputs/first"))
    files = []
    for name, color in COLORS.items():
        make_picture(color, 99).save(tmp_path / f"{name}.png")
        files.append(tmp_path / f"{name}.png")
    (tmp_path / "<img src=x onerror=alert(1)>.png").write_bytes(b"no image")
    page.set_input_files("#files", [*files, tmp_path / "<img src=x onerror=alert(1)>.png"])
    wait_until(lambda: page.evaluate("document.querySelectorAll('#results .card').length === 4"))
    assert page.locator("#results .card canvas").count() == 3
    assert (
        "<img src=x" in page.inner_text("#results .card .error >> nth=0") and page.locator("#results img").count() == 0
    )
    content = list(files[0].read_bytes())
    page.evaluate(
        """(content) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(content)], "dropped.png", { type: "image/png" }));
            document.getElementById("drop").dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
            window.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data }));
        }""",
        content,
    )
    wait_until(lambda: page.evaluate("document.querySelectorAll('#results .card').length === 6"))
    with page.expect_download() as download:
        page.click("#save")
    rows = read_csv(Path(download.value.path()))
    assert [row["file"] for row in rows] == [*(path.name for path in files), "dropped.png", "dropped.png"]
    assert rows[0]["class"] == rows[3]["class"] and rows[0]["confidence"] == rows[4]["confidence"]
    check_access(page)
    page.click("#clear")
    assert page.locator("#results .card").count() == 0


def test_a_run_is_exported_and_its_files_come_down(page: Any, server: Server) -> None:
    page.goto(f"{server.address}/runs/{make_id(server.folder / 'outputs/first')}")
    page.wait_for_selector("fieldset.choices input:checked")
    page.check("fieldset.choices input[value=torchscript]")
    command = page.inner_text("form .copy code")
    assert command == "python inference.py task=export run=outputs/first 'formats=[timm,torchscript]'"
    page.click("button:text-is('Export')")
    page.wait_for_selector("text=Exporting …")
    page.reload()  # the export goes on, and is shown again
    page.wait_for_selector("text=Exported.")
    assert page.locator("[aria-label='Agreement of the exports'] tbody tr").count() == 2
    with page.expect_download() as download:
        page.click("a:text-is('model.torchscript.pt')")
    written = server.folder / "outputs/first/exports/model.torchscript.pt"
    assert Path(download.value.path()).read_bytes() == written.read_bytes()
    check_access(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_can_be_used_by_everyone_and_fits_a_phone(browser: Any, server: Server, scheme: str) -> None:
    rows = json.loads(urllib.request.urlopen(f"{server.address}/api/runs").read())["rows"]
    runs = [row["id"] for row in json.loads(urllib.request.urlopen(f"{server.address}/api/runs?flat=1").read())["rows"]]
    sweeps = [f"/sweeps/{row['id']}" for row in rows if row["kind"] == "sweep"]
    known = [f"/runs/{run}" for run in runs[:1]] + [f"/compare?run={run}&run={runs[0]}" for run in runs[1:2]]
    context = browser.new_context(color_scheme=scheme, viewport={"width": 360, "height": 740})
    page = context.new_page()
    for address in ("/", "/train", "/predict", "/docs", "/compare", "/runs/none", *known, *sweeps):
        page.goto(server.address + address)
        page.wait_for_load_state("networkidle") if address in ("/train", "/docs") else page.wait_for_timeout(600)
        check_access(page)
        width = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert width <= 0, address
        assert page.locator("h1").count() == 1, address
    context.close()


def test_an_empty_page_says_what_to_do_and_one_for_reading_starts_nothing(browser: Any, tmp_path: Path) -> None:
    server = Server(tmp_path)
    context = browser.new_context()
    page = context.new_page()
    try:
        page.goto(server.address)
        page.wait_for_selector(".empty")
        assert "python train.py" in page.inner_text(".empty")
        page.click(".empty a")
        page.wait_for_selector("#start")
        page.goto(f"{server.address}/predict")
        page.wait_for_selector("#drop a")
    finally:
        context.close()
        server.kill()
