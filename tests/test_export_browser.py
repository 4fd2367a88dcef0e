"""The exported page in Debian's Chromium, opened from the disk, with the runtime that npm fetches."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import CHROMIUM, make_picture
from PIL import Image
from test_export_onnx import open_sensitive

from src.augment.normalize import normalize
from src.data.read import read_image
from src.export.bundle import Bundle
from src.export.web_page import PAGE, predict_web, write_web
from src.run.saved import SavedRun

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt install chromium"),
    pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm: apt install npm"),
    pytest.mark.timeout(600),
]
NAMES = ["<b>blue</b>", "green & " + "long " * 30, "red"]


@pytest.fixture(scope="module")
def bundle(photo_run: SavedRun) -> Bundle:
    return replace(open_sensitive(photo_run), classes=NAMES)


@pytest.fixture(scope="module")
def exported(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page of a stranger [ä]")
    try:
        write_web(bundle, folder)
    except ValueError as error:
        if "npm could not fetch" in str(error):
            pytest.skip("needs npm with a network, which fetches the runtime of the page")
        raise
    return folder / PAGE


def open_page(browser: Any, exported: Path, **options: Any) -> Any:
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    context.set_default_timeout(120_000)
    page = context.new_page()
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda message: page.problems.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: page.problems.append(request.url) if is_foreign(request.url, exported) else None)
    page.goto(exported.as_uri())
    page.wait_for_selector("#status:has-text('Ready')")
    return page


def is_foreign(url: str, exported: Path) -> bool:
    return url != exported.as_uri() and not url.startswith(("blob:", "data:"))


@pytest.fixture(scope="module")
def shared(browser: Any, exported: Path) -> Iterator[Any]:
    page = open_page(browser, exported)
    yield page
    page.context.close()


@pytest.fixture
def page(shared: Any) -> Iterator[Any]:
    """A page on which no script fails and from which nothing asks another machine."""
    shared.problems.clear()
    yield shared
    assert shared.problems == []


def give(page: Any, path: Path) -> dict[str, float]:
    """Choose a file, and return the bars: probabilities by class."""
    page.set_input_files("#file", path)
    page.wait_for_selector(f"#status:has-text('{path.name}: most probably')")
    rows = page.query_selector_all("#bars li")
    return {row.query_selector(".name").text_content(): float(row.get_attribute("data-probability")) for row in rows}


def expect(bundle: Bundle, path: Path) -> dict[str, float]:
    """Return what the run predicts for a file, from all of its pixels: a large JPEG may otherwise be read smaller."""
    look = bundle.preprocessing
    images = normalize(look(read_image(path)).unsqueeze(0), look.mean, look.std)
    return dict(zip(NAMES, bundle.model(images).softmax(1)[0].tolist(), strict=True))


def differ(ours: dict[str, float], theirs: dict[str, float]) -> float:
    assert ours.keys() == theirs.keys()
    return max(abs(ours[name] - theirs[name]) for name in ours)


@pytest.mark.parametrize("size", [(20, 16), (1, 1), (3, 300), (16, 16), (640, 480)])
def test_the_bars_are_what_the_run_predicts(size: tuple[int, int], page: Any, bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / f"{size[0]}x{size[1]}.png"
    make_picture((220, 40, 30), 3, size).save(path)
    shown, expected = give(page, path), expect(bundle, path)
    assert differ(shown, expected) < 1e-4
    assert list(shown) == sorted(expected, key=lambda name: -expected[name])


def test_gray_and_transparent_pictures_are_read_as_in_inference(page: Any, bundle: Bundle, tmp_path: Path) -> None:
    gray, clear = tmp_path / "gray.png", tmp_path / "clear.png"
    picture = make_picture((30, 60, 220), 5, (40, 30))
    picture.convert("L").save(gray)
    alpha = Image.fromarray((np.indices((30, 40)).sum(0) % 2 * 255).astype(np.uint8))
    picture.putalpha(alpha)
    picture.save(clear)
    for path in (gray, clear):
        assert differ(give(page, path), expect(bundle, path)) < 1e-4


def test_a_photo_that_lies_on_its_side_is_turned_upright(page: Any, bundle: Bundle, tmp_path: Path) -> None:
    pixels = np.zeros((60, 90, 3), np.uint8)
    pixels[:20, :, 0], pixels[40:, :, 2], pixels[:, :10, 1] = 255, 255, 255
    turned, plain = tmp_path / "turned.jpg", tmp_path / "plain.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    for path, kept in ((turned, exif), (plain, Image.Exif())):
        Image.fromarray(pixels).save(path, quality=100, subsampling=0, exif=kept)
    assert differ(expect(bundle, turned), expect(bundle, plain)) > 0.02
    assert differ(give(page, turned), expect(bundle, turned)) < 0.002  # decoders of JPEG round differently


def test_what_is_no_image_is_said_and_the_next_image_is_answered(page: Any, bundle: Bundle, tmp_path: Path) -> None:
    wrong, right = tmp_path / "<i>notes.png", tmp_path / "red.png"
    wrong.write_text("not an image")
    make_picture((220, 40, 30), 1).save(right)
    page.set_input_files("#file", wrong)
    page.wait_for_selector("#error:has-text('is not an image')")
    assert page.text_content("#error") == "<i>notes.png is not an image that this browser can read."
    assert not page.is_visible("#answer") and page.text_content("#status") == ""
    give(page, right)
    assert page.text_content("#error") == "" and page.is_visible("#answer")


def test_a_picture_that_is_too_large_is_said(page: Any, tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    Image.new("1", (8000, 7000)).save(path)
    page.set_input_files("#file", path)
    page.wait_for_selector("#error:has-text('large.png')")
    assert page.text_content("#error") == "large.png has 56 million pixels; at most 50 fit into memory."


def test_pictures_can_be_dropped_and_pasted(page: Any, tmp_path: Path) -> None:
    path = tmp_path / "dropped.png"
    make_picture((40, 200, 60), 2).save(path)
    files = page.evaluate_handle(
        """bytes => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "dropped.png", { type: "image/png" }));
            return data;
        }""",
        list(path.read_bytes()),
    )
    page.dispatch_event("h1", "drop", {"dataTransfer": files})
    page.wait_for_selector("#status:has-text('dropped.png: most probably')")
    page.evaluate(
        """data => {
            data.items.clear();
            data.items.add(new File(["no image"], "pasted.txt", { type: "text/plain" }));
            document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data }));
        }""",
        files,
    )
    page.wait_for_selector("#error:has-text('pasted.txt is not an image')")
    page.dispatch_event("h1", "drop", {"dataTransfer": page.evaluate_handle("() => new DataTransfer()")})
    page.wait_for_selector("#error:has-text('What was dropped is not a file')")


def test_keyboards_and_screen_readers_reach_everything(page: Any, tmp_path: Path) -> None:
    from axe_playwright_python.sync_playwright import Axe

    path = tmp_path / "picture.png"
    make_picture((40, 200, 60), 2).save(path)
    give(page, path)
    assert Axe().run(page).response["violations"] == []
    page.evaluate("() => document.activeElement.blur()")
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.id") == "file"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert [item.text_content() for item in page.query_selector_all("#classes li")] == NAMES
    assert page.is_visible("#classes")
    page.keyboard.press("Enter")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_without_scrolling_sideways(scheme: str, browser: Any, exported: Path, tmp_path: Path) -> None:
    page = open_page(browser, exported, viewport={"width": 360, "height": 740}, color_scheme=scheme)
    path = tmp_path / f"{'a long name ' * 12}.png"
    make_picture((40, 200, 60), 2, (900, 40)).save(path)
    give(page, path)
    page.click("summary")
    assert page.evaluate("() => document.documentElement.scrollWidth") == 360
    page.screenshot(path=tmp_path / "phone.png", full_page=True)
    dark = np.asarray(Image.open(tmp_path / "phone.png").convert("L")).mean() < 128
    assert dark == (scheme == "dark") and page.problems == []
    page.context.close()


def test_the_model_in_the_page_predicts_what_the_run_predicts(exported: Path, bundle: Bundle) -> None:
    assert torch.allclose(predict_web(bundle, exported.parent), bundle.samples.probabilities, atol=1e-5)
