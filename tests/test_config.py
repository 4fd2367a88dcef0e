"""The configuration: what is refused, with which words, and what null becomes."""

import itertools
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from published import make_timm

from src.config.compose import CONFIGS, dump_config, load_config
from src.config.inference import InferenceConfig
from src.config.keys import SYNONYMS, list_keys
from src.config.options import option_keys
from src.config.overrides import quote_path
from src.config.resolve import complete
from src.config.schema import TrainConfig
from src.run.job import Job
from src.start.launch import launch

OPTIONS = sorted(
    f"{path.parent.name}={path.stem}"
    for path in CONFIGS.glob("*/*.yaml")
    if path.parent.name not in ("task", "experiment")
)


def needed(option: str, folder: Path) -> list[str]:
    """Return what a data set cannot do without: a folder, a table, a handle."""
    if option in ("dataset=image_folder", "dataset=imagenet"):
        return [f"dataset.root='{folder}'"]
    if option == "dataset=csv":
        (folder / "table.csv").touch()
        return [f"dataset.table='{folder}/table.csv'"]
    return ["dataset.handle=owner/name"] if option == "dataset=kaggle" else []


def run_cli(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, list[tuple[TrainConfig, Job]]]:
    """Call the real entry point with a main that only records what it gets."""
    calls: list[tuple[TrainConfig, Job]] = []
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    code = launch(lambda config, job: calls.append((config, job)), "config", TrainConfig)
    return code, calls


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


BAD = {
    "model.depth=8": "model.depth is not a key. Did you mean model.num_layers?",
    "training.learning_rate=1": "training.learning_rate is not a key. Did you mean training.lr?",
    "bs=3": "bs is not a key. Did you mean training.batch_size?",
    "modle=vit_tiny": "modle is not a key. Did you mean model?",
    "+model.num_layer=1": "model.num_layer is not a key. Did you mean model.num_layers?",
    "model=vit_tny": "model=vit_tny is not an option. Did you mean model=vit_tiny?",
    "model.embedding_dim=abc": "model.embedding_dim=abc is not a whole number",
    "augmentation=medium augmentation.magnitude=20": "augmentation.magnitude means nothing without augmentation.p",
    "training.patch_dropout=1": "training.patch_dropout=1.0 must be at least 0 and below 1",
    "training.patch_dropout_off_share=0.1": "training.patch_dropout_off_share means nothing without training.patch_d",
    "patch_drop_rate=0.5": "patch_drop_rate is not a key. Did you mean training.patch_dropout?",
    "augmentation.mix_switch=0.2": "augmentation.mix_switch means nothing without augmentation.mixup and",
    "augmentation.crop_ratio=[0.5,2]": "augmentation.crop_ratio means nothing without augmentation.random_resized_crop",
    "training.class_weights=on": "training.class_weights=on is not known; allowed: balanced; null: all",
    "training.class_weights=balanced training.sampler=balanced": "training.class_weights=balanced and training.sampler",
    "training.epochs=2.5": "training.epochs=2.5 is not a whole number",
    "training.lr=fast": "training.lr=fast is not a number",
    "model.qk_norm=maybe": "model.qk_norm=maybe is not true or false",
    "model.num_layers=null": "model.num_layers must not be null",
    "training.epochs=0": "training.epochs=0 must be at least 1",
    "training.batch_size=-1": "training.batch_size=-1 must be at least 1",
    "training.lr=-1": "training.lr=-1.0 must be above 0",
    "training.lr=nan": "training.lr=nan must be above 0; null: the optimizer's",
    "training.lr=inf": "training.lr=inf must be finite",
    "training.clip_norm=0": "training.clip_norm=0.0 must be at least 1e-09; null: no clipping",
    "training.ema=1": "training.ema=1.0 must be above 0 and below 1; null: no averaging",
    "scheduler=wsd scheduler.decay_share=0": "scheduler.decay_share=0.0 must be above 0 and at most 1",
    "optimizer.betas=null": "optimizer.betas must not be null",
    "optimizer.betas=[0.9]": "optimizer.betas=[0.9] must be two numbers, each at least 0 and below 1",
    "optimizer.name=adagrad": "optimizer.name=adagrad is not known; allowed: adam, adamw, lion, muon, sgd",
    "optimizer.weight_decay=-1": "optimizer.weight_decay=-1.0 must be at least 0",
    "optimizer.momentum=0.9": "optimizer.momentum means nothing for optimizer=adamw; its keys: betas, eps, lr",
    "model.num_heads=3": "model.embedding_dim=64 is not divisible by model.num_heads=3; heads that fit: 1, 2, 4",
    "model.patch_size=3": "model.image_size=8 is not divisible by model.patch_size=3; patch sizes that fit: 1, 2, 4, 8",
    "model.image_size=97": "model.image_size=97 fits no patch size from 2 to 16; try [96, 96]",
    "model.pooling=max": "model.pooling=max is not known; allowed: cls, mean",
    "scheduler.warmup_epochs=1000": "scheduler.warmup_epochs=1000 must be shorter than training.epochs=",
    "dataset=image_folder": "dataset.root is not set; write dataset.root=FOLDER",
    "augmentation.hue=0.6": "augmentation.hue=0.6 must be a fraction from 0 to 0.5",
    "augmentation.erasing=nan": "augmentation.erasing=nan must be a probability from 0 to 1",
    "augmentation.mixup=-1": "augmentation.mixup=-1.0 must be at least 0",
    "augmentation.crop_ratio=[2,1]": "augmentation.crop_ratio=[2.0, 1.0] must be two numbers, the smaller first",
    "augmentation.policy=auto": "augmentation.policy=auto is not known; allowed: randaugment, trivialaugment",
    "augmentation.repeats=0": "augmentation.repeats=0 must be at least 1",
    "device=gpu": "device=gpu is not known; allowed: auto, cpu, cuda",
    "model.num_layers=4,6": "model.num_layers=4,6 gives several values: add --multirun",
    "seed=99999999999999999999": "seed=99999999999999999999 must be at least 0 and below 2^63",
    "dataset.split_seed=-1": "dataset.split_seed=-1 must be at least 0",
    "dataset=imagenet": "dataset.root is not set; write dataset.root=FOLDER",
    "dataset=csv": "dataset.table is not set; write dataset.table=FILE.csv",
    "dataset=kaggle": "dataset.handle is not set; write dataset.handle=OWNER/NAME",
    "dataset.handle=a/b": "dataset.handle means nothing for dataset=digits; its keys: cache, cache_dir, channels",
    "dataset.split=grouped": "dataset.split means nothing for dataset=digits",
    "dataset.cache=ram": "dataset.cache=ram is not known; allowed: auto, device, memory, disk, off",
    "dataset.val_size=0.2": "dataset.val_size is not a key. Did you mean dataset.val_share?",
    "dataset.val_share=null": "dataset.val_share must not be null",
    "model.layer_scale=nan": "model.layer_scale=nan must be at least 1e-09; null: no LayerScale",
    "model.stem=conv model.patch_size=1": "model.stem=conv has no effect with model.patch_size=1; patch sizes that fit",
    "model.image_size=9 model.patch_size=3 model.stem=conv": "model.patch_size=3 is not a power of two, which model.s",
    "--epochs=5": "--epochs=5 is not an option; settings are typed without dashes: training.epochs=5",
    "lr": "'lr' is not of the form key=value",
    "training.clip_norm=None": "training.clip_norm=None: nothing is written as null; write training.clip_norm=null",
    "training.ema=none": "training.ema=none: nothing is written as null; write training.ema=null",
    "training.ema=~": "training.ema=~: nothing is written as null; write training.ema=null",
    "training.ema=": "training.ema= has no value; write training.ema=null, or leave it out",
    "training.ema=''": "training.ema= has no value; write training.ema=null, or leave it out",
    "dataset.root=None": "dataset.root=None: nothing is written as null; write dataset.root=null",
    "dataset=image_folder dataset.root=": "dataset.root= has no value; write dataset.root=null, or leave it out",
    "init.weights=NONE": "init.weights=NONE: nothing is written as null; write init.weights=null",
    "resume=None": "resume=None: nothing is written as null; leave resume out",
    "model.num_layers=None": "model.num_layers=None is not a whole number",
    "seed=": "seed= has no value; write one, or leave it out",
    "~training.ema": "~training.ema would remove a key that each run has; write training.ema=null",
    "~training.profile": "~training.profile would remove a key that each run has; leave ~training.profile out",
    "~model": "~model would remove a key that each run has; leave ~model out",
    "model=null": "model=null chooses nothing; model can be: auto, vit_base, vit_large, vit_micro, vit_nano, vit_small",
    "sweep=5": "sweep=5: sweep has keys of its own, such as sweep.zip and sweep.new; set one of them",
    "hydra.mode=SWEEP": "hydra.mode=SWEEP is not of its type",
    "--multirun --info": "--multirun and --info exclude each other; type only one",
    "--resolve": "--resolve has no effect without --cfg",
    "--experimental-rerun x": "--experimental-rerun runs a pickled file; to continue a run, type resume=RUN",
    "--config-dir nowhere": "--config-dir=",
    "--config-path nowhere": "--config-path=",
    "--config-name nowhere": "configs/nowhere.yaml does not exist",
}


@pytest.mark.parametrize("argument", BAD)
def test_bad_input_names_the_key_in_three_lines_and_leaves_nothing(
    argument: str, empty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    code, calls = run_cli(monkeypatch, *argument.split())
    error = capsys.readouterr().err
    assert code == 1 and not calls
    assert error.startswith(f"error: {BAD[argument]}")
    assert len(error.strip().splitlines()) <= 3 and "Traceback" not in error
    assert not list(empty.iterdir())


def test_a_recipe_may_be_typed_with_a_plus(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, calls = run_cli(monkeypatch, "+experiment=finetune")
    assert code == 0 and calls[0][0].training.epochs == 30
    code, calls = run_cli(monkeypatch, "-m", "++experiment=null,finetune")
    assert code == 0 and [config.training.epochs for config, _ in calls] == [40, 30]


@pytest.mark.parametrize(
    ("word", "folder"), [("hydra.run.dir=file/x", "file/x"), ("-m seed=0,1 hydra.sweep.dir=file/x", "file/x")]
)
def test_a_folder_that_cannot_be_made_is_answered_with_the_key_that_chooses_another(
    word: str, folder: str, empty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (empty / "file").touch()
    code, calls = run_cli(monkeypatch, *word.split())
    key = "hydra.sweep.dir" if "-m" in word else "hydra.run.dir"
    wanted = f"error: the folder {folder} cannot be written (Not a directory); choose another: {key}=FOLDER\n"
    assert code == 1 and not calls and capsys.readouterr().err == wanted


@pytest.mark.parametrize(("value", "shown"), [("0", False), ("", False), ("1", True)])
def test_tracebacks_are_shown_for_one_and_not_for_zero(
    value: str, shown: bool, empty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", value)
    monkeypatch.setattr(sys, "argv", ["train.py"])

    def main(config: TrainConfig, job: Job) -> None:
        raise ValueError("no images")

    if shown:
        with pytest.raises(ValueError, match="no images"):
            launch(main, "config", TrainConfig)
    else:
        assert launch(main, "config", TrainConfig) == 1 and capsys.readouterr().err == "error: no images\n"


def test_a_missing_folder_is_named(empty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    code, _ = run_cli(monkeypatch, "dataset=image_folder", f"dataset.root={empty}/no such folder")
    assert code == 1 and f"dataset.root={empty}/no such folder is not a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "overrides", "message"),
    [
        ("gtsrb", ["split=random"], "dataset.split=random is not known; allowed: stratified, grouped, blocks"),
        ("gtsrb", ["split=grouped", "group_pattern=null"], "dataset.split=grouped needs dataset.group_pattern"),
        ("gtsrb", ["group_pattern=x"], "dataset.group_pattern=x has no group in parentheses"),
        ("gtsrb", ["group_pattern='(x'"], "dataset.group_pattern=(x is not a regular expression: missing )"),
        ("tom_and_jerry", ["block_size=0"], "dataset.block_size=0 must be at least 1"),
        ("tom_and_jerry", ["split=grouped", "block_size=9"], "dataset.split=grouped needs dataset.group_pattern"),
        (
            "food101",
            ["block_size=9"],
            "dataset.block_size means nothing for dataset.split=stratified; it needs dataset.",
        ),
        ("food101", ["group_pattern='(x)'"], "it needs dataset.split=grouped or dataset.split=blocks"),
        ("kaggle", ["handle=name"], "dataset.handle=name is not of the form OWNER/NAME or OWNER/NAME/versions/3"),
        ("kaggle", ["handle=a/b/versions/x"], "dataset.handle=a/b/versions/x is not of the form OWNER/NAME"),
        ("emnist", ["variant=all"], "dataset.variant=all is not known; allowed: balanced, byclass"),
        ("csv", ["table=/nowhere.csv"], "dataset.table=/nowhere.csv is not a file"),
        (
            "csv",
            ["table=/x", "split=grouped"],
            "dataset.split=grouped needs dataset.group_pattern or dataset.group_column",
        ),
        ("dtd", ["val_share=0.1"], "dataset.val_share means nothing for dataset=dtd"),
    ],
)
def test_splits_and_sources_that_cannot_be_are_refused_by_key(option: str, overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        compose(f"dataset={option}", *(f"dataset.{override}" for override in overrides))


@pytest.mark.parametrize(
    ("statistics", "message"),
    [
        (["dataset.mean=[0.4,0.4,0.4]", "dataset.std=[0.2,0.2,0.2]"], "must have one number for each of 1 channel"),
        (["dataset.mean=[0.5]", "dataset.std=[0.0]"], "dataset.std=[0.0] must be numbers, each at least 1e-06"),
        (["dataset.mean=[0.5]"], "dataset.mean and dataset.std go together"),
    ],
)
def test_statistics_that_do_not_fit_the_channels_are_refused(statistics: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        compose(*statistics)


def test_an_unknown_home_folder_is_answered_like_any_missing_one(
    empty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    code, _ = run_cli(monkeypatch, "dataset=image_folder", "dataset.root=~nobody_here/photos")
    assert code == 1 and "~nobody_here/photos is not a folder" in capsys.readouterr().err


def test_a_failed_job_of_a_sweep_leaves_nothing_alive(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gc
    import weakref

    class Model: ...

    alive: list[weakref.ref] = []
    leaks: list[weakref.ref] = []

    def main(config: TrainConfig, job: Job) -> None:
        gc.collect()
        leaks.extend(ref for ref in alive if ref() is not None)
        model = Model()
        alive.append(weakref.ref(model))
        raise ValueError("broken")

    monkeypatch.setattr(sys, "argv", ["train.py", "--multirun", "seed=0,1,2"])
    assert launch(main, "config", TrainConfig) == 1 and len(alive) == 3 and not leaks


@pytest.mark.parametrize("flag", ["--config-dir", "-cd"])
def test_files_in_a_folder_of_ones_own_are_options_too(flag: str, empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = empty.parent / "my configs"
    (extra / "experiment").mkdir(parents=True)
    (extra / "experiment" / "mine.yaml").write_text("# @package _global_\ntraining:\n  epochs: 3\n")
    code, calls = run_cli(monkeypatch, "experiment=mine", flag, str(extra))
    assert code == 0 and calls[0][0].training.epochs == 3


def test_a_job_knows_the_command_as_it_was_typed(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, calls = run_cli(monkeypatch, "training.epochs=3")
    assert calls[0][1].command == ["train.py", "training.epochs=3"]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            "model/mine.yaml",
            "defaults: [vit_nano]\nnum_layrs: 3\n",
            "model.num_layrs is not a key (in configs/model/mine",
        ),
        (
            "experiment/mine.yaml",
            "# @package _global_\ntraining:\n  epohcs: 3\n",
            "training.epohcs is not a key (in configs/experiment/mine.yaml). Did you mean training.epochs?",
        ),
        ("experiment/mine.yaml", "# @package _global_\ntraining:\n  epochs: x3\n", "training.epochs=x3 is not a whole"),
    ],
)
def test_a_mistake_in_a_file_names_key_and_file(
    file: str, text: str, message: str, empty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    path = empty.parent / "extra" / file
    path.parent.mkdir(parents=True)
    path.write_text(text)
    group = path.parent.name
    code, _ = run_cli(monkeypatch, f"hydra.searchpath=[file://{empty.parent}/extra]", f"{group}=mine")
    assert code == 1 and f"error: {message}" in capsys.readouterr().err


def test_in_a_sweep_every_job_is_checked_before_the_first_starts(
    empty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    code, calls = run_cli(monkeypatch, "--multirun", "model.num_heads=2,4,3", "seed=0,1")
    assert code == 1 and not calls and not list(empty.iterdir())
    assert "in the job model.num_heads=3 seed=0" in capsys.readouterr().err


def test_a_sweep_runs_the_product_of_its_values(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, calls = run_cli(monkeypatch, "--multirun", "model.num_layers=4,6,8", "training.lr=0.001,0.0005")
    assert code == 0
    assert [(c.model.num_layers, c.training.lr) for c, _ in calls] == [(n, r) for n in (4, 6, 8) for r in (1e-3, 5e-4)]
    assert [job.folder.name for _, job in calls] == ["0", "1", "2", "3", "4", "5"]


def test_the_other_jobs_of_a_sweep_run_on_after_a_failure(
    empty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    done = []

    def main(config: TrainConfig, job: Job) -> None:
        if config.seed == 1:
            raise ValueError("no images")
        done.append(config.seed)

    monkeypatch.setattr(sys, "argv", ["train.py", "--multirun", "seed=0,1,2"])
    assert launch(main, "config", TrainConfig) == 1
    assert done == [0, 2] and "error: no images" in capsys.readouterr().err


def test_a_job_that_failed_before_its_run_began_leaves_nothing_but_where_the_user_stands(
    empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def main(config: TrainConfig, job: Job) -> None:
        raise ValueError("broken data set")

    monkeypatch.setattr(sys, "argv", ["train.py"])
    assert launch(main, "config", TrainConfig) == 1
    assert empty.is_dir() and not list(empty.iterdir())


def test_two_runs_of_the_same_second_get_two_folders(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = set()
    for _ in range(3):
        monkeypatch.setattr(sys, "argv", ["train.py", "hydra.job.name=x"])

        def main(config: TrainConfig, job: Job) -> None:
            (job.folder / "made").touch()
            folders.add(job.folder)

        assert launch(main, "config", TrainConfig) == 0
    assert len(folders) == 3


def test_a_folder_named_by_the_user_is_not_used_twice(
    empty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (empty / "mine").mkdir()
    (empty / "mine" / "thesis.tex").touch()
    code, calls = run_cli(monkeypatch, "hydra.run.dir=mine")
    assert code == 1 and not calls
    assert "hydra.run.dir=mine exists; nothing is overwritten" in capsys.readouterr().err


def test_a_convolutional_stem_gets_a_patch_of_a_power_of_two() -> None:
    assert compose("model.image_size=96", "model.stem=conv").model.patch_size == 8


@pytest.mark.parametrize("option", OPTIONS)
def test_every_group_file_composes(option: str, tmp_path: Path) -> None:
    group = option.split("=")[0]
    config = compose(option, *needed(option, tmp_path))
    if group != "model":
        assert getattr(config, group) is not None


# The patch size follows the image size alone: each data set with one model, each model with a set of each kind.
PAIRS = [("model=vit_nano", option) for option in OPTIONS if option.startswith("dataset=")]
PAIRS += itertools.product(
    [option for option in OPTIONS if option.startswith("model=")],
    ["dataset=digits", "dataset=cifar10", "dataset=gtsrb"],
)


@pytest.mark.parametrize(("model", "dataset"), dict.fromkeys(PAIRS))
def test_any_model_works_with_any_data_set(model: str, dataset: str, tmp_path: Path) -> None:
    config = compose(model, dataset, *needed(dataset, tmp_path))
    height, width = config.model.image_size
    assert config.model.patch_size and height % config.model.patch_size == 0
    assert (height // config.model.patch_size) * (width // config.model.patch_size) >= (49 if height > 8 else 16)


@pytest.mark.parametrize(
    ("group", "option", "keys", "others"),
    [
        ("optimizer", "sgd", "lr weight_decay momentum nesterov", "betas eps"),
        ("optimizer", "lion", "lr weight_decay betas", "eps momentum nesterov"),
        ("scheduler", "constant", "warmup_epochs", "min_lr decay_share"),
        ("dataset", "image_folder", "root mean channels val_share group_pattern on_error", "table handle variant"),
        ("dataset", "csv", "root table split_column group_column", "handle subfolder"),
        ("dataset", "tom_and_jerry", "handle subfolder split group_pattern", "root table"),
        ("dataset", "digits", "mean val_share test_share split_seed", "root split on_error"),
        ("dataset", "emnist", "root variant val_share", "test_share split"),
        ("dataset", "flowers102", "root on_error mean", "val_share test_share split split_seed"),
    ],
)
def test_an_option_has_the_keys_of_its_file_and_of_those_it_inherits(
    group: str, option: str, keys: str, others: str
) -> None:
    found = option_keys(group, option)
    assert set(keys.split()) <= found and not set(others.split()) & found
    if group != "dataset":
        assert set(keys.split()) == found


def test_a_run_whose_option_is_gone_is_read_with_the_keys_that_it_has(tmp_path: Path) -> None:
    saved = complete(compose("optimizer=sgd"), 100, 10, 1, [0.5], [0.25])
    (tmp_path / "config.yaml").write_text(dump_config(saved).replace("name: sgd", "name: lars"))
    optimizer = load_config(tmp_path / "config.yaml").optimizer
    assert optimizer == replace(saved.optimizer, name="lars")


def test_synonyms_point_at_keys_that_exist() -> None:
    assert set(SYNONYMS.values()) <= set(list_keys(TrainConfig)) | set(list_keys(InferenceConfig))


@pytest.mark.parametrize("key", ["dataset.image_size", "model.image_size"])
def test_a_typed_image_size_goes_before_that_of_a_recipe(key: str) -> None:
    assert compose("experiment=finetune", f"{key}=96").model.image_size == (96, 96)


@pytest.mark.parametrize(("size", "patch"), [(8, 2), (28, 4), (32, 4), (64, 8), (96, 12), (128, 16), (224, 16)])
def test_the_patch_size_follows_the_image_size(size: int, patch: int) -> None:
    assert compose(f"model.image_size={size}").model.patch_size == patch


def test_shifts_and_flips_follow_the_data_unless_typed() -> None:
    photo, digits = compose("dataset=cifar10"), compose("dataset=digits")
    assert (photo.augmentation.pad_crop, photo.augmentation.horizontal_flip) == (0.125, 0.5)
    assert (digits.augmentation.pad_crop, digits.augmentation.horizontal_flip) == (0.0, 0.0)
    assert compose("augmentation.pad_crop=0.25").augmentation.pad_crop == 0.25


def test_large_images_are_cropped_and_resized_small_ones_shifted() -> None:
    def crop(*overrides: str) -> tuple[float | None, float | None]:
        augmentation = compose("dataset=cifar10", *overrides).augmentation
        return augmentation.random_resized_crop, augmentation.pad_crop

    assert crop() == crop("model.image_size=48") == (0.0, 0.125)
    assert crop("model.image_size=64") == crop("model.image_size=224", "augmentation=medium") == (0.35, 0.0)
    assert crop("model.image_size=64", "augmentation=strong") == (0.2, 0.0)
    assert crop("model.image_size=64", "augmentation=none") == (0.0, 0.0)
    # What is typed decides for the other one.
    assert crop("model.image_size=64", "augmentation.pad_crop=0.1") == (0.0, 0.1)
    assert crop("augmentation.random_resized_crop=0.5") == (0.5, 0.0)
    with pytest.raises(ValueError, match=r"random_resized_crop=0.5 and augmentation.pad_crop=0.1 are two ways"):
        crop("augmentation.random_resized_crop=0.5", "augmentation.pad_crop=0.1")


@pytest.mark.parametrize("strength", ["light", "medium", "strong"])
def test_digits_are_never_mirrored(strength: str) -> None:
    assert compose("dataset=digits", f"augmentation={strength}").augmentation.horizontal_flip == 0
    assert compose("dataset=cifar10", f"augmentation={strength}").augmentation.horizontal_flip == 0.5


def test_a_typed_learning_rate_wins_in_both_spellings() -> None:
    for key in ("training.lr", "optimizer.lr"):
        config = compose(f"{key}=0.005")
        assert config.training.lr == config.optimizer.lr == 0.005
    assert compose("optimizer=sgd").training.lr == compose("optimizer=sgd").optimizer.lr == 0.1
    with pytest.raises(ValueError, match=r"training.lr=1.0 and optimizer.lr=2.0 are one learning rate"):
        compose("training.lr=1", "optimizer.lr=2")


def test_warm_up_is_a_tenth_of_the_run_and_one_epoch_always_works() -> None:
    assert compose("training.epochs=30").scheduler.warmup_epochs == 3.0
    assert compose("training.epochs=1").scheduler.warmup_epochs == 0.1


def test_weights_are_found_from_any_folder(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(empty))
    for path in (empty / "w.pt", empty / "vit" / "w.BIN"):
        path.parent.mkdir(exist_ok=True)
        torch.save(make_timm(embed_dim=192, num_heads=3).state_dict(), path)
    for typed, weights in (("w.pt", "w.pt"), ("'~/vit/w.BIN'", "vit/w.BIN"), (".", "."), (f"{empty}/w.pt", "w.pt")):
        _, [(config, _)] = run_cli(monkeypatch, f"init.weights={typed}")
        assert config.init.weights == str((empty / weights).absolute())


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (
            "",
            "init.weights= has no value; write a folder, a file (.safetensors, .pt, .pth, .bin, .npz, .ckpt, ",
        ),
        ("latest", "init.weights=latest does not exist; write a folder, a file (.safetensors, .pt, .pth"),
        ("/no/where.pt", "init.weights=/no/where.pt does not exist; write a folder, a file"),
        ("w.txt", "w.txt is not a weights file; write a folder, a file (.safetensors, .pt, .pth, .bin, .npz"),
        ("timm:a/b", "init.weights=timm:a/b is not of the form timm:MODEL or hf-hub:OWNER/NAME"),
        ("w.pt,/no/where.pt", "init.weights=/no/where.pt does not exist"),
    ],
)
def test_weights_that_cannot_be_are_refused_before_anything_begins(
    typed: str, message: str, empty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    torch.save(make_timm(embed_dim=192, num_heads=3).state_dict(), empty / "w.pt")
    (empty / "w.txt").touch()
    code, calls = run_cli(monkeypatch, f"init.weights={typed}", *(["--multirun"] if "," in typed else []))
    assert code == 1 and not calls and message in capsys.readouterr().err
    assert {path.name for path in empty.iterdir()} == {"w.pt", "w.txt"}


def test_typed_classes_that_disagree_with_the_data_are_an_error() -> None:
    with pytest.raises(ValueError, match="model.num_classes=7, but the data has 10"):
        complete(compose("model.num_classes=7"), 100, 10, 1, [0.5], [0.5])


@pytest.mark.parametrize(("num_train", "batch"), [(3, 16), (1169, 16), (4250, 64), (45_000, 128), (1_281_167, 128)])
def test_the_batch_follows_the_size_of_the_data_unless_typed(num_train: int, batch: int) -> None:
    for overrides, expected in (([], batch), (["training.batch_size=24"], 24)):
        config = complete(compose(*overrides), num_train, 10, 1, [0.5], [0.5])
        assert config.training.batch_size == expected


def test_a_saved_configuration_loads_equal(tmp_path: Path) -> None:
    for overrides in ([], ["optimizer=sgd", "scheduler=wsd"], ["model.image_size=[16,8]", "training.clip_norm=null"]):
        config = complete(compose(*overrides), 100, 10, 1, [0.5], [0.25])
        (tmp_path / "config.yaml").write_text(dump_config(config))
        assert load_config(tmp_path / "config.yaml") == config


def test_a_strangers_configuration_is_not_interpolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "cpu")
    text = dump_config(complete(compose(), 100, 10, 1, [0.5], [0.25]))
    text = text.replace("device: auto", "device: ${oc.env:SECRET}")
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"device=\$\{oc.env:SECRET\} is not known"):
        load_config(tmp_path / "config.yaml")


NAMES = st.text(
    st.sampled_from("ab ='\"[]{}(),$\\~#%&äλ猫:;*?!<>|+@-_.0") | st.characters(exclude_categories=["C", "Z"]),
    min_size=1,
    max_size=12,
).filter(lambda name: "/" not in name and name not in (".", ".."))


@settings(deadline=None, max_examples=300)
@given(name=NAMES)
def test_hydras_grammar_gives_back_any_path_that_was_quoted(name: str) -> None:
    value = OverridesParser.create().parse_override(quote_path(f"dataset.root=/photos/{name}")).value()
    assert OmegaConf.to_container(OmegaConf.create({"root": value}), resolve=True) == {"root": f"/photos/{name}"}


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        *((word, True) for word in ("true", "True", "yes", "on", "ON", "1", "'true'")),
        *((word, False) for word in ("false", "no", "Off", "0")),
        *((word, str(Path.cwd() / word)) for word in ("report", "my [report] = ä, 1", "2026-01-31", "tru", "${HOME}")),
        ("./yes", str(Path.cwd() / "yes")),
        ("'quoted one'", str(Path.cwd() / "quoted one")),
        ("~/report", str(Path.home() / "report")),
    ],
)
def test_check_is_true_or_false_or_a_folder(typed: str, meant: bool | str) -> None:
    assert compose(quote_path(f"check={typed}")).check == meant


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=8)
@given(name=NAMES)
def test_paths_may_hold_any_character(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    config = compose("dataset=image_folder", quote_path(f"dataset.root={folder}"))
    assert config.dataset.root == str(folder)
    saved = complete(config, 100, 2, 3, [0.5] * 3, [0.2] * 3)
    (tmp_path / "config.yaml").write_text(dump_config(saved))
    assert load_config(tmp_path / "config.yaml") == saved
