"""The model card of an export: what it tells, what it must not tell, and that its code runs as it stands."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import COLORS, make_picture

from src.augment.normalize import normalize
from src.config.compose import load_config
from src.export.bundle import Bundle
from src.export.card import clean, format_card, write_card
from src.export.card_facts import describe_splits, list_recipe, name_data, read_copies, read_images, without_folders
from src.export.export import open_bundle
from src.export.formats import FORMATS
from src.export.onnx_files import PICTURE, build_picture_model, describe
from src.machine.disk import read_object, write_csv, write_json
from src.run import files
from src.run.saved import SavedRun, read_run
from src.tables import escape_markdown

pytestmark = pytest.mark.export

FORMATS_TRIED = ("timm", "hf", "onnx", "torchscript")
EVIL = "<script>alert(1)</script>|`*a*`&lt;b"


@pytest.fixture(scope="module")
def bundle(photo_run: SavedRun) -> Bundle:
    return open_bundle(photo_run)


@pytest.fixture(scope="module")
def exported(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two formats and the card, and a picture to try them with."""
    folder = tmp_path_factory.mktemp("export")
    formats: dict[str, dict[str, Any]] = {}
    for name in FORMATS_TRIED:
        names = write_format(name, bundle, folder)
        facts = {
            "files": dict.fromkeys(names, {"bytes": 1024}),
            "images": 5,
            "max_probability_difference": 1.5e-7,
            "same_class": 1.0,
        }
        formats[name] = facts | {
            "read_by": name,
            "own_preprocessing": {"max_probability_difference": 0.03, "same_class": 0.8},
        }
    names = write_card(bundle, formats, folder)
    assert names == ["README.md", "training.yaml", "confusion_matrix.png", "curves.png", "per_class.csv"]
    make_picture(COLORS["red"], 99, (50, 40)).save(folder / "image.jpg")
    return folder


def write_format(name: str, bundle: Bundle, folder: Path) -> list[str]:
    """Write a format, of onnx only the file that the example opens: the other one takes as long again."""
    if name != "onnx":
        return FORMATS[name].write(bundle, folder)
    content = describe(build_picture_model(bundle.model, bundle.preprocessing), bundle)
    (folder / PICTURE).write_bytes(content)
    return [PICTURE]


def read_blocks(folder: Path) -> dict[str, str]:
    """Return the Python code of the card by its heading."""
    found = re.findall(
        r"^### ([^\n]+)\n\n```python\n(.*?)^```", (folder / "README.md").read_text(), re.DOTALL | re.MULTILINE
    )
    return dict(found)


def copy_run(run: SavedRun, folder: Path) -> SavedRun:
    shutil.copytree(run.folder, folder)
    return read_run(folder)


def test_the_hub_reads_the_card_and_the_measured_accuracy(exported: Path, bundle: Bundle) -> None:
    hub = pytest.importorskip("huggingface_hub")
    data = hub.ModelCard.load(exported / "README.md").data
    (accuracy, f1) = data.eval_results
    tested = read_object(bundle.run.folder / files.TEST_METRICS)
    assert (accuracy.metric_type, accuracy.metric_value) == ("accuracy", tested["accuracy"])
    assert (f1.metric_type, f1.metric_value) == ("f1", tested["macro_f1"])
    assert (accuracy.task_type, accuracy.dataset_type, accuracy.dataset_split) == (
        "image-classification",
        "imagefolder",
        "test",
    )
    assert (data.library_name, data.pipeline_tag, data.license) == ("timm", "image-classification", None)
    assert "transformers" in data.tags


@pytest.mark.filterwarnings("ignore:.*torch.jit.load:FutureWarning")
@pytest.mark.parametrize(
    ("heading", "package", "exact"),
    [
        ("timm", "timm", False),
        ("transformers", "transformers", False),
        ("ONNX Runtime", "onnxruntime", True),
        ("TorchScript", "torch", True),
    ],
)
def test_the_code_of_the_card_runs_as_it_stands(
    exported: Path,
    bundle: Bundle,
    heading: str,
    package: str,
    exact: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip(package)
    monkeypatch.chdir(exported)
    exec(compile(read_blocks(exported)[heading], heading, "exec"), {})
    found = {line.split()[-1]: float(line.split("%")[0]) for line in capsys.readouterr().out.splitlines()}
    pixels = bundle.preprocessing.read(exported / "image.jpg").unsqueeze(0)
    expected = bundle.model(normalize(pixels, bundle.preprocessing.mean, bundle.preprocessing.std)).softmax(1)[0]
    allowed = 0.006 if exact else 5.0  # percent: two digits are printed; other libraries resize and crop differently
    assert found == pytest.approx(dict(zip(bundle.classes, (100 * expected).tolist(), strict=True)), abs=allowed)
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_numbers_are_those_of_the_run(exported: Path, bundle: Bundle) -> None:
    text = (exported / "README.md").read_text()
    tested = read_object(bundle.run.folder / files.TEST_METRICS)
    low, high = tested["accuracy_low"], tested["accuracy_high"]
    assert f"**{tested['accuracy']:.2%}** right (95 % interval {low:.1%} to {high:.1%})" in text
    counts = bundle.run.environment()["images"]
    assert f"{counts['train']} training, {counts['val']} validation, {counts['test']} test" in text
    assert bundle.run.environment()["data_fingerprint"] in text
    assert (
        "| timm | 2.0 KiB | 5 | 1.5e-07 | 100.00% |" in text
        and "With their own resizing, which may round sizes differently: timm 3.0e-02 (80.00% same class)" in text
    )
    assert "hf upload OWNER/NAME ." in text and "(confusion\\_matrix.png)" not in text
    for name in ("confusion_matrix.png", "curves.png"):
        assert (
            f"]({name})" in text and (exported / name).read_bytes() == next(bundle.run.folder.rglob(name)).read_bytes()
        )


def test_no_folder_user_or_host_of_this_machine_is_told(exported: Path, bundle: Bundle) -> None:
    environment = bundle.run.environment()
    told = "".join((exported / name).read_text() for name in ("README.md", "training.yaml"))
    assert "photos [ä]" in (exported / "training.yaml").read_text()
    for secret in (str(bundle.config.dataset.root), environment["cwd"], environment["host"], str(bundle.run.folder)):
        assert secret and re.search(rf"(?<!\w){re.escape(secret)}(?!\w)", told) is None, secret
    assert not re.search(r"(?<![\w.:/])/(?:home|tmp|root|Users)/", told)


def test_the_recipe_of_the_card_trains_again(exported: Path, bundle: Bundle) -> None:
    again = load_config(exported / "training.yaml")
    assert again.model == bundle.config.model and again.training == bundle.config.training
    assert again.dataset.root == "photos [ä]" and without_folders(bundle.config) == again


@pytest.mark.parametrize(
    ("key", "path", "told"),
    [
        ("dataset.root", str(Path.home()), "FOLDER"),
        ("dataset.root", "~", "FOLDER"),
        ("dataset.root", "/data/my photos/", "my photos"),
        ("init.weights", "/home/jane/runs/vit.pt", "vit.pt"),
        ("init.weights", "timm:vit_small_patch16_224.augreg_in21k", "timm:vit_small_patch16_224.augreg_in21k"),
        ("init.weights", "hf-hub:owner/name", "hf-hub:owner/name"),
        ("dataset.cache_dir", "data/cache", "data/cache"),
        ("dataset.cache_dir", "../cache", "cache"),
        ("dataset.root", "clients/acme/jane/photos", "photos"),
        ("dataset.root", "data/acme/photos", "photos"),
        ("dataset.root", "C:\\Users\\jane\\photos", "photos"),
        ("dataset.root", "\\\\server\\jane\\photos\\", "photos"),
    ],
)
def test_paths_become_names(bundle: Bundle, key: str, path: str, told: str) -> None:
    section, name = key.split(".")
    config = bundle.config
    config = replace(config, **{section: replace(getattr(config, section), **{name: path})})
    assert getattr(getattr(without_folders(config), section), name) == told


def test_formats_checked_earlier_are_described_with_their_own_images(bundle: Bundle) -> None:
    agreed = {"images": 5, "max_probability_difference": 0.0, "same_class": 1.0}
    text = format_card(bundle, {"timm": agreed | {"source": "64 made"}, "pt2": agreed | {"source": "5 others"}}, [])
    assert "on 64 made (timm); 5 others (pt2):" in text


def test_the_hub_is_told_no_library_whose_files_are_in_a_folder(bundle: Bundle) -> None:
    for formats, library in (({"hf": {}}, None), ({"hf": {}, "onnx": {}}, "onnx"), ({"timm": {}, "hf": {}}, "timm")):
        text = format_card(bundle, formats, [])
        facts = yaml.safe_load(text.split("---\n")[1])
        assert facts.get("library_name") == library and "transformers" in facts["tags"]
        assert text.count('subfolder="hf"') == 2


def test_settings_are_those_that_differ_without_paths(bundle: Bundle) -> None:
    changed = {key: (value, default) for key, value, default in list_recipe(bundle.run)}
    assert changed["model.embedding_dim"][0] == "16" and changed["model.embedding_dim"][1] != "16"
    assert "dataset.root" not in changed and "training.kernels" not in changed


def test_names_of_strangers_are_text(bundle: Bundle, tmp_path: Path) -> None:
    run = copy_run(bundle.run, tmp_path / "run")
    names = [EVIL, "---\nlicense: evil", "\udcff" + "x" * 500]
    rows = [{"class": name, "precision": 1, "recall": 0.5, "f1": 0.6, "support": 2} for name in names]
    write_csv(run.folder / files.PER_CLASS, rows)
    config = replace(bundle.config, dataset=replace(bundle.config.dataset, root=f"/x/{EVIL.replace('/', '')}\n---\n"))
    text = format_card(replace(bundle, run=run, config=config, classes=names), {}, [])
    text.encode("utf-8")
    assert "<script>" not in text.replace("\\<script>", "").split("\n---\n", 1)[1]
    facts = yaml.safe_load(text.split("\n---\n")[0].removeprefix("---\n"))
    assert "license" not in facts and facts["model-index"][0]["results"][0]["dataset"]["name"].startswith("<script>")
    table = [line for line in text.splitlines() if line.endswith("| 50.00% | 60.00% | 2 |")]
    assert len(table) == 3 and all(len(re.findall(r"(?<!\\)\|", line)) == 6 for line in table)
    assert "x" * 100 not in text


def test_markdown_shows_an_odd_name_as_it_is() -> None:
    markdown_it = pytest.importorskip("markdown_it")
    html = markdown_it.MarkdownIt("js-default").render(escape_markdown(clean(EVIL)))
    shown = html.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    assert shown.strip() == f"<p>{EVIL}</p>"


def test_a_thousand_classes_are_the_worst_and_the_best_in_a_fold(bundle: Bundle, tmp_path: Path) -> None:
    run = copy_run(bundle.run, tmp_path / "run")
    names = [f"class {number:04d}" for number in range(1000)]
    rows = [
        {"class": name, "precision": 0.5, "recall": number / 1000, "f1": number / 1000, "support": 3}
        for number, name in enumerate(names)
    ]
    write_csv(run.folder / files.PER_CLASS, rows)
    text = format_card(replace(bundle, run=run, classes=names), {}, [])
    listed = re.findall(r"^\| (class \d+) \|", text, re.MULTILINE)
    assert listed == [*names[:20], *names[-10:]]
    assert "And 970 more in [per_class.csv](per_class.csv)." in text and "<details><summary>The 20 classes" in text
    assert "and 970 more, in the order of the logits" in text
    assert "class 0000 (0% of 3), class 0001 (0% of 3)" in text and len(text) < 20_000


def test_what_a_run_does_not_have_is_left_out(bundle: Bundle, tmp_path: Path) -> None:
    run = copy_run(bundle.run, tmp_path / "run")
    shutil.rmtree(run.folder / "test")
    for name in (files.LOG, files.ENVIRONMENT, files.CURVES, files.METRICS):
        (run.folder / name).unlink()
    write_json(run.folder / files.STATUS, {"status": "stopped"})
    assert write_card(replace(bundle, run=read_run(run.folder)), {}, tmp_path) == ["README.md", "training.yaml"]
    text = (tmp_path / "README.md").read_text()
    assert "It has no test results." in text and "had not been finished when it was exported (it was stopped)" in text
    assert "model-index" not in text and "![" not in text and "None" not in text and "nan" not in text
    assert read_object(tmp_path / "parity.json") == {}


def test_damaged_facts_are_left_out(bundle: Bundle, tmp_path: Path) -> None:
    formats: dict[str, Any] = {"timm": {"files": None, "images": "9", "same_class": None}, "new": {"same_class": 0.5}}
    run = copy_run(bundle.run, tmp_path / "run")
    write_json(run.folder / files.TEST_METRICS, {"accuracy": "high", "images": None})
    write_json(run.folder / files.ENVIRONMENT, {"images": {"train": "x"}, "processor": 3, "cores": "many"})
    text = format_card(replace(bundle, run=run), formats, [])
    assert "| new |  |  |  | 50.00% |" in text and "It has no test results." in text


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("images    14 training images per class; 20 x 16 px; RGB", ((14, 14), (20, 20), (16, 16), "RGB")),
        (
            "images    3 to 1,200 training images per class; 100 to 4,032 x 80 px; L, RGB",
            ((3, 1200), (100, 4032), (80, 80), "L, RGB"),
        ),
    ],
)
def test_the_log_tells_what_the_images_are(line: str, expected: tuple[Any, ...]) -> None:
    found = read_images(["data      x", line])
    assert found is not None and (found.per_class, found.width, found.height, found.modes) == expected


def test_limits_follow_from_the_report_on_the_data(bundle: Bundle, tmp_path: Path) -> None:
    run = copy_run(bundle.run, tmp_path / "run")
    told = [
        "2026-01-01 00:00:00,000 INFO images    3 to 1,200 training images per class; 8 to 90 x 80 px; L, RGB",
        "2026-01-01 00:00:00,000 WARNING 4 images have an exact copy in another split, which inflates /home/jane",
    ]
    (run.folder / files.LOG).write_text("\n".join(told))
    text = format_card(replace(bundle, run=run), {}, []).split("## Limits")[1].split("## Use it")[0]
    assert "4 images have an exact copy in another split, which makes" in text and "jane" not in text
    assert "the smallest class has 3." in text and "Imbalanced classes: 3 to 1,200 training images" in text
    assert "smaller than the model's 16 × 16 px were enlarged: the images have 8 to 90 × 80 px." in text
    assert read_copies(["2 images occur in more than one class; check=true lists them"]) == [
        "2 images occur in more than one class"
    ]


def test_splits_are_described_by_their_rule_and_seed(bundle: Bundle) -> None:
    assert "dataset.split_seed=0" in describe_splits(bundle.config) and "equal shares" in describe_splits(bundle.config)
    blocks = replace(bundle.config, dataset=replace(bundle.config.dataset, split="blocks", block_size=30))
    assert "in blocks of 30 consecutive files" in describe_splits(blocks)
    table = replace(bundle.config.dataset, name="csv", table="/x/birds.csv", path_column="a", label_column="b")
    assert name_data(replace(bundle.config, dataset=table)) == "birds"


def test_the_license_of_the_first_weights_is_told(bundle: Bundle, tmp_path: Path) -> None:
    run = copy_run(bundle.run, tmp_path / "run")
    with (run.folder / files.LOG).open("a") as log:
        log.write("2026-01-01 00:00:00,000 INFO           license: cc-by-nc-4.0\n")
    config = replace(bundle.config, init=replace(bundle.config.init, weights="/home/jane/mae.pth"))
    assert "- **Began with**: mae.pth; their license: cc-by-nc-4.0\n" in format_card(
        replace(bundle, run=run, config=config), {}, []
    )


def test_the_hub_learns_which_model_training_began_with(bundle: Bundle) -> None:
    for weights, base in (
        ("timm:vit_small_patch16_224.augreg_in21k", "timm/vit_small_patch16_224.augreg_in21k"),
        ("hf-hub:owner/name", "owner/name"),
        ("/home/jane/vit.pt", None),
    ):
        config = replace(bundle.config, init=replace(bundle.config.init, weights=weights))
        text = format_card(replace(bundle, config=config), {}, [])
        assert yaml.safe_load(text.split("\n---\n")[0].removeprefix("---\n")).get("base_model") == base
        assert "fine-tuned" in text and "jane" not in text


def test_facts_of_the_card_are_json_and_yaml_alike(exported: Path) -> None:
    front = (exported / "README.md").read_text().split("\n---\n")[0]
    assert json.loads(json.dumps(yaml.safe_load(front.removeprefix("---\n"))))["metrics"] == ["accuracy"]
    assert front.splitlines()[1].startswith("# license:")
