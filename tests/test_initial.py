"""`init.weights=RUN`: the new run takes over the model, the preprocessing and the classes of the run."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import COLORS, compose, make_picture, train_run
from safetensors.torch import load_file

from src.config.compose import load_config
from src.config.initial import find_run
from src.config.schema import TrainConfig
from src.run.saved import SavedRun
from src.run.weights import find_weights

FINISHED = Path(__file__).parent / "saved" / "outputs" / "finished"  # digits, 8 px, patch 2, 2 heads of 8
PHOTOS = "dataset=image_folder"


def compose_from(weights: Path, *overrides: str, root: Path) -> TrainConfig:
    return compose(PHOTOS, f"dataset.root='{root}'", f"init.weights='{weights}'", *overrides)


def test_a_run_gives_its_model_and_its_preprocessing_to_whatever_is_not_typed(tmp_path: Path) -> None:
    saved = load_config(FINISHED / "config.yaml")
    config = compose_from(FINISHED, root=tmp_path)
    assert config.model == replace(saved.model, num_classes=None, in_channels=None)
    looks = [(c.dataset.mean, c.dataset.std, c.dataset.interpolation, c.dataset.channels) for c in (config, saved)]
    assert looks[0] == looks[1] == ([0.305117], [0.376166], "bicubic", 1)
    file = FINISHED / "checkpoints" / "best.safetensors"
    assert compose_from(file, root=tmp_path).model == config.model, "the file is one of the run's"


def test_a_recipe_does_not_overrule_the_run(tmp_path: Path) -> None:
    config = compose_from(FINISHED, "experiment=finetune", root=tmp_path)
    assert (config.model.image_size, config.model.patch_size, config.model.num_heads) == ((8, 8), 2, 2)
    assert config.model.drop_path == 0.1 and config.init.layer_decay == 0.75, "how it is trained is the recipe's"


def test_what_is_typed_about_the_images_is_kept(tmp_path: Path) -> None:
    for key in ("dataset", "model"):
        config = compose_from(FINISHED, f"{key}.image_size=[16,12]", "dataset.interpolation=bilinear", root=tmp_path)
        assert (config.model.image_size, config.model.patch_size) == ((16, 12), 2)
        assert config.dataset.interpolation == "bilinear" and config.dataset.mean == [0.305117]
    config = compose_from(FINISHED, "dataset.channels=3", root=tmp_path)
    assert config.dataset.channels == 3 and config.dataset.mean is None, "of one channel"
    config = compose_from(FINISHED, "dataset.mean=[0.5]", "dataset.std=[0.25]", root=tmp_path)
    assert (config.dataset.mean, config.dataset.std) == ([0.5], [0.25])


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (
            "model.num_heads=4",
            "model.num_heads=4 contradicts the weights of {}, which have model.num_heads=2; l",
        ),
        (
            "model.stem=overlap",
            "model.stem=overlap contradicts the weights of {}, which have model.stem=patch",
        ),
        (
            "model.layer_scale=1e-5",
            "model.layer_scale=1e-05 contradicts the weights of {}, which have model.lay",
        ),
        ("model=vit_tiny", "model.embedding_dim=192, model.num_layers=12, model.num_heads=3 contradicts the weights"),
    ],
)
def test_what_contradicts_the_weights_is_refused_by_its_key(typed: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(message.format(FINISHED))):
        compose_from(FINISHED, typed, root=tmp_path)
    loose = compose_from(FINISHED, typed, "init.strict=false", root=tmp_path).model
    key, _, value = typed.replace("model=vit_tiny", "model.embedding_dim=192").removeprefix("model.").partition("=")
    assert str(getattr(loose, key)) == value.replace("1e-5", "1e-05") and loose.image_size == (8, 8)


def test_other_patches_may_be_typed(tmp_path: Path) -> None:
    config = compose_from(FINISHED, "model.patch_size=4", root=tmp_path)
    assert (config.model.image_size, config.model.patch_size, config.model.num_heads) == ((8, 8), 4, 2)


@pytest.mark.parametrize("key", ["init.weights", "dataset.root", "dataset.cache_dir"])
def test_an_address_is_not_taken_for_a_path(key: str) -> None:
    message = f"{key}=https://host/vit.pt is an address, and nothing is downloaded; download it first and type the path"
    with pytest.raises(ValueError, match=re.escape(message)):
        compose(PHOTOS, f"{key}='https://host/vit.pt'")


def test_the_run_of_a_file_is_the_folder_that_has_a_configuration(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    file, beside, alone = run / "checkpoints" / "best.safetensors", run / "copy.pt", tmp_path / "other" / "vit.pt"
    assert find_run(str(run)) is None is find_run(str(file))
    (run / "config.yaml").write_text("model: {}\ntrainer: {}\n")  # of another program
    assert find_run(str(run)) is None
    (run / "config.yaml").write_text("model: {}\ndataset: {}\ntraining: {}\n")
    assert [find_run(str(path)) for path in (run, file, beside, alone)] == [run, run, run, None]


def test_weights_of_an_earlier_run_bring_the_classes_of_the_same_name(
    photo_run: SavedRun, tmp_path: Path, empty_pictures: None
) -> None:
    for name, color in (COLORS | {"amber": (240, 180, 20)}).items():
        if name != "green":
            (tmp_path / "photos" / name).mkdir(parents=True)
            for i in range(6):
                make_picture(color, seed=i).save(tmp_path / "photos" / name / f"{i}.png")
    options = [
        PHOTOS,
        f"dataset.root='{tmp_path / 'photos'}'",
        f"init.weights='{photo_run.folder}'",
        "training.epochs=1",
    ]
    run = train_run(tmp_path / "run", *options, "training.lr=1e-9", "training.ema=null")
    old, new = (load_config(folder / "config.yaml") for folder in (photo_run.folder, run.folder))
    assert new.model == old.model and (new.dataset.mean, new.dataset.std) == (old.dataset.mean, old.dataset.std)
    log_lines = [line for line in (run.folder / "train.log").read_text().splitlines() if "init      " in line]
    assert any(line.endswith("init      head: 2 of 3 classes by their names; new: amber") for line in log_lines)
    numbers = ", ".join(map(str, old.dataset.mean or []))
    assert any(
        f"init      preprocessing as in the weights' run: dataset.mean=[{numbers}]" in line for line in log_lines
    )
    before, after = (
        load_file(folder / "checkpoints" / "best.safetensors") for folder in (photo_run.folder, run.folder)
    )
    theirs = json.loads((photo_run.folder / "classes.json").read_text())
    assert (theirs, json.loads((run.folder / "classes.json").read_text())) == (
        ["blue", "green", "red"],
        ["amber", "blue", "red"],
    )
    for ours, row in ((1, 0), (2, 2)):
        torch.testing.assert_close(after["head.weight"][ours], before["head.weight"][row], atol=1e-6, rtol=0)


def test_the_grid_is_that_of_the_run() -> None:
    assert find_weights(str(FINISHED), FINISHED).origin.grid == (4, 4)
    assert find_weights(str(FINISHED / "checkpoints" / "best.safetensors"), FINISHED).classes == [
        str(digit) for digit in range(10)
    ]
