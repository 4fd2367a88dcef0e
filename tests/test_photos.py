"""What your own images choose where nothing is typed."""

from pathlib import Path

import pytest
from helpers import compose, make_picture
from published import make_timm
from safetensors.torch import save_file
from test_config import run_cli

from src.config.photos import Pictures, choose, choose_size, describe_chosen, list_chosen
from src.data.survey import survey


def make_photos(root: Path, sizes: list[tuple[int, int]], folder: str = "") -> Path:
    """Make two classes of pictures with these sizes (width, height)."""
    for name in ("cat", "dog"):
        place = root / folder / name
        place.mkdir(parents=True)
        for number, size in enumerate(sizes):
            make_picture((90, 90, 90), number, size).save(place / f"{number}.png")
    return root


def test_a_folder_is_surveyed_by_its_training_images(tmp_path: Path) -> None:
    root = make_photos(tmp_path / "photos", [(40, 30), (60, 50), (80, 20)], "Training")
    make_photos(root, [(500, 400)], "test")
    (root / "Training" / "cat" / "broken.jpg").write_bytes(b"broken")
    found = Pictures(count=7, height=30, width=60)
    assert survey(str(root), "/") == survey("photos", str(tmp_path)) == found


def test_what_cannot_be_surveyed_is_left_to_loading(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert survey(str(tmp_path / "empty"), "/") is None and survey(str(tmp_path / "none"), "/") is None


@pytest.mark.parametrize(
    ("side", "size"), [(3000, 128), (128, 128), (112, 128), (100, 96), (64, 64), (50, 48), (32, 32), (28, 28), (3, 8)]
)
def test_images_are_taken_at_a_size_that_patches_divide(side: int, size: int) -> None:
    assert choose_size(side) == size
    compose("dataset=cifar10", f"dataset.image_size={size}")


def test_few_images_are_seen_more_often_and_a_time_limit_is_used() -> None:
    epochs = [
        choose(Pictures(count, 200, 300), limited=False)["training.epochs"] for count in (3, 5_000, 50_000, 10**6)
    ]
    assert epochs == [300, 120, 12, 10]
    assert choose(Pictures(50_000, 200, 300), limited=True)["training.epochs"] == 60


def test_tiny_images_get_a_tiny_model() -> None:
    assert choose(Pictures(1000, 9, 12), limited=False)["model"] == "vit_nano"
    assert choose(Pictures(1000, 32, 32), limited=False)["model"] == "vit_micro"


def test_everything_left_open_is_chosen_and_said_in_two_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_pictures: None
) -> None:
    root = make_photos(tmp_path / "photos", [(70, 60)] * 6)
    code, calls = run_cli(monkeypatch, "dataset=image_folder", f"dataset.root={root}")
    ((config, job),) = calls
    assert code == 0 and job.overrides == ["dataset=image_folder", f"dataset.root='{root}'"]
    assert config.model.image_size == (60, 60) and config.training.epochs == 300
    assert (config.model.embedding_dim, config.model.num_layers, config.model.mlp_ratio) == (192, 9, 2.0)
    assert (config.model.pooling, config.model.stem, config.augmentation.policy) == (
        "mean",
        "overlap",
        "trivialaugment",
    )
    assert (config.optimizer.name, config.optimizer.lr, config.training.lr) == ("muon", 2e-3, 2e-3)
    assert job.choices["model"] == "vit_micro"
    assert describe_chosen(job.chosen) == [
        "chosen    dataset.image_size=60 model=vit_micro model.pooling=mean model.stem=overlap model.drop_path=0.05 "
        "optimizer=muon optimizer.lr=0.002 augmentation=medium training.patch_dropout=0.25: by the size of the images",
        "chosen    training.epochs=300: by their number",
    ]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("optimizer=adamw", ("adamw", 1e-3)),
        ("training.lr=3e-4", ("muon", 3e-4)),
        ("optimizer.lr=3e-4", ("muon", 3e-4)),
        ("optimizer=auto", ("muon", 2e-3)),
        ("experiment=cifar10_fast", ("adamw", 1e-3)),
    ],
)
def test_a_typed_learning_rate_is_that_of_the_chosen_optimizer(
    typed: str, expected: tuple[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_photos(tmp_path / "photos", [(64, 64)] * 6)
    _, ((config, _),) = run_cli(monkeypatch, "dataset=image_folder", f"dataset.root={root}", typed)
    assert (config.optimizer.name, config.optimizer.lr) == expected and config.training.lr == config.optimizer.lr


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("model=vit_tiny", ("cls", 192, 12, 300, "trivialaugment")),
        ("model.num_layers=3 training.epochs=7", ("mean", 192, 3, 7, "trivialaugment")),
        ("augmentation=none model.pooling=cls", ("cls", 192, 9, 300, None)),
        ("model=auto", ("mean", 192, 9, 300, "trivialaugment")),
        ("experiment=cifar10_fast", ("mean", 192, 9, 50, "randaugment")),
    ],
)
def test_what_is_typed_or_in_a_recipe_is_not_chosen(
    typed: str, expected: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_photos(tmp_path / "photos", [(64, 64)] * 6)
    _, ((config, _),) = run_cli(monkeypatch, "dataset=image_folder", f"dataset.root={root}", *typed.split())
    model, training = config.model, config.training
    found = (model.pooling, model.embedding_dim, model.num_layers, training.epochs, config.augmentation.policy)
    assert found == expected


def test_the_jobs_of_a_sweep_choose_each_for_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = (make_photos(tmp_path / str(side), [(side, side)] * 6) for side in (12, 70))
    code, calls = run_cli(monkeypatch, "--multirun", "dataset=image_folder", f"dataset.root={small},{large}")
    assert code == 0 and [config.model.image_size for config, _ in calls] == [(12, 12), (64, 64)]
    assert [job.choices["model"] for _, job in calls] == ["vit_nano", "vit_micro"]


def test_other_data_sets_are_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    _, ((config, job),) = run_cli(monkeypatch)
    assert not job.chosen and job.choices["model"] == "vit_nano"
    assert (config.training.epochs, config.training.patch_dropout, config.model.num_layers) == (40, 0.0, 4)


def test_only_what_was_not_typed_counts_as_chosen() -> None:
    words = ["model=vit_micro", "training.epochs=12", "dataset.root=x", "seed=1"]
    assert list_chosen(words, typed=["training.epochs=12"]) == ["model=vit_micro"]


def test_trained_weights_leave_nothing_to_choose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_photos(tmp_path / "photos", [(64, 64)] * 6)
    save_file(make_timm(embed_dim=192, num_heads=3).state_dict(), tmp_path / "weights.safetensors")
    words = ["dataset=image_folder", f"dataset.root={root}", f"init.weights={tmp_path / 'weights.safetensors'}"]
    _, ((config, job),) = run_cli(monkeypatch, *words)
    assert not job.chosen and config.optimizer.name == "adamw" and config.model.image_size == (16, 16)
