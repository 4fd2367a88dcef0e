"""Resuming a run from the command line, exit codes, and a start of several processes."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from src.config.compose import compose_config, dump_config, load_config
from src.config.keys import list_keys
from src.config.resolve import complete
from src.config.schema import TrainConfig
from src.run.job import Job
from src.run.resume import CHANGEABLE, FIXED, read_config, refuse_changes
from src.run.saved import SavedRun
from src.signals import Interrupted
from src.start.launch import launch

ROOT = Path(__file__).resolve().parents[1]
CHOICES = {"model": "vit_nano", "dataset": "digits"}


def make_config(*overrides: str) -> TrainConfig:
    """Return a configuration as a run saves it: every null filled in that the data decides."""
    return complete(compose_config(*overrides), 1169, 10, 1, [0.3], [0.4])


def save_run(folder: Path, config: TrainConfig) -> Path:
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "config.yaml").write_text("training: {epochs: 40}\n")
    (folder / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    (folder / "environment.json").write_text(json.dumps({"choices": CHOICES}))
    return folder


def edit_saved(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change the values of a run's saved configuration as an older version, or a hand, would have written them."""
    values = yaml.safe_load((folder / "config.yaml").read_text())
    edit(values)
    (folder / "config.yaml").write_text(yaml.safe_dump(values))


def digest(folder: Path) -> dict[str, str]:
    """Return every file and folder below `folder`, but for the lock, with a hash of its bytes."""
    paths = sorted(path for path in folder.rglob("*") if path.name != ".lock")
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "" for path in paths}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A saved run of ten epochs, with the user standing in an empty folder."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "HYDRA_FULL_ERROR"):
        monkeypatch.delenv(name, raising=False)
    return save_run(tmp_path / "a run = [ä] ${x}, 'b'", make_config("training.epochs=10", "optimizer=sgd", "seed=3"))


def start(
    monkeypatch: pytest.MonkeyPatch, run: Path, *arguments: str, main: Callable[[TrainConfig, Job], Any] | None = None
) -> tuple[int, list[tuple[TrainConfig, Job]]]:
    """Call the real entry point; `run` is what `resume=` is answered with."""
    calls: list[tuple[TrainConfig, Job]] = []

    def record(config: TrainConfig, job: Job) -> None:
        calls.append((config, job))
        if main is not None:
            main(config, job)

    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    answer_resume(monkeypatch, lambda wanted: run)
    return launch(record, "config", TrainConfig), calls


def answer_resume(monkeypatch: pytest.MonkeyPatch, find: Callable[[str], Path]) -> None:
    """Let `resume=` mean what `find` says."""
    monkeypatch.setattr("src.start.command.open_resumable", lambda wanted, roots: SavedRun(find(wanted), "stopped", {}))


def test_a_resumed_run_has_its_own_configuration_folder_and_choices(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, saved = digest(run), load_config(run / "config.yaml")
    code, [(config, job)] = start(monkeypatch, run, "resume=latest", "training.epochs=25", "augmentation.rotation=3")
    assert code == 0
    assert config == replace(
        saved,
        resume=str(run),
        training=replace(saved.training, epochs=25),
        augmentation=replace(saved.augmentation, rotation=3.0),
    )
    assert config.scheduler.warmup_epochs == 1.0  # a tenth of the ten epochs that it was made for
    assert job.folder == run and job.choices == CHOICES
    assert job.overrides == ["training.epochs=25", "augmentation.rotation=3"]
    assert job.command == ["train.py", "resume=latest", "training.epochs=25", "augmentation.rotation=3"]
    assert digest(run) == before and not list(Path.cwd().iterdir())


def test_the_value_of_resume_reaches_the_finder_as_typed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: list[str] = []

    def find(value: str) -> Path:
        wanted.append(value)
        return run

    for typed in (f"resume={run}", "resume='latest'", "+resume=a,b=c [d]"):
        monkeypatch.setattr(sys, "argv", ["train.py", typed])
        answer_resume(monkeypatch, find)
        assert launch(lambda config, job: None, "config", TrainConfig) == 0
    assert wanted == [str(run), "latest", "a,b=c [d]"]


def test_resume_null_is_a_run_of_its_own(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, [(config, job)] = start(monkeypatch, run, "resume=null", "model.num_layers=2")
    assert code == 0 and config.resume is None and config.training.epochs == 40
    assert job.folder.is_relative_to(Path.cwd() / "outputs") and job.choices["optimizer"] == "adamw"


@pytest.mark.parametrize("typed", ["resume=", "resume=''"])
def test_resume_without_a_value_says_what_it_takes(
    typed: str, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    code, calls = start(monkeypatch, run, typed)
    wanted = "error: resume= has no value; type latest or a run's folder, or leave it out\n"
    assert (code, calls, capsys.readouterr().err) == (1, [], wanted)


def test_a_resumed_run_needs_the_weights_no_more_that_it_began_with(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "w.pt"
    weights.touch()
    other = save_run(tmp_path / "tuned", make_config(f"init.weights={weights}"))
    weights.unlink()
    code, calls = start(monkeypatch, other, "resume=latest")
    assert code == 0 and calls[0][0].init.weights == str(weights)


def test_other_classes_than_those_of_a_resumed_run_are_not_called_typed() -> None:
    config = replace(compose_config("model.num_classes=4", "dataset=cifar10", "dataset.root=/x"), resume="outputs/a")
    with pytest.raises(ValueError) as error:
        complete(config, 100, 10, 3, [0.5] * 3, [0.5] * 3)
    assert str(error.value) == (
        "the images are not those that the run was started with (4 classes there, 10 here; dataset.root=/x); "
        "bring those back, or start a new run without resume"
    )


@pytest.mark.parametrize("error", [FileNotFoundError, ValueError])
def test_a_run_that_is_not_found_is_told_in_the_words_of_the_finder(
    error: type[Exception], run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def find(value: str) -> Path:
        raise error(f"resume={value}: no run here is not set")

    monkeypatch.setattr(sys, "argv", ["train.py", "resume=latest"])
    answer_resume(monkeypatch, find)
    assert launch(lambda config, job: None, "config", TrainConfig) == 1
    assert capsys.readouterr().err == "error: resume=latest: no run here is not set\n"


@pytest.mark.parametrize("key", ["training.lr", "optimizer.lr"])
def test_either_spelling_of_the_learning_rate_wins_over_the_saved_one(
    key: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, [(config, _)] = start(monkeypatch, run, "resume=latest", f"{key}=0.02")
    assert config.training.lr == config.optimizer.lr == 0.02


REFUSED = {
    "model.num_layers=8": "model.num_layers=8 would be a different experiment: the run has 4. Start a new run; init.",
    "seed=4": "seed=4 would be a different experiment: the run has 3.",
    "model.num_layers=8 seed=4": "model.num_layers=8 and seed=4 would be a different experiment: the run has 4 and 3.",
    "model={num_layers:8}": "resume=latest takes single keys, not model={num_layers:8}, which sets a whole group",
    "model.layer_scale=null model.pooling=mean": "model.pooling=mean would be a different experiment: the run has cls",
    "dataset.image_size=16": "dataset.image_size=[16, 16] would be a different experiment: the run has [8, 8].",
    "dataset.val_share=0.2": "dataset.val_share=0.2 would be a different experiment: the run has 0.15.",
    "training.batch_size=null": "training.batch_size=null would be a different experiment: the run has 16.",
    "training.ema=0.99": "training.ema=0.99 would be a different experiment: the run has null.",
    "training={ema: 0.99}": "training.ema=0.99 would be a different experiment: the run has null.",
    "augmentation.repeats=2": "augmentation.repeats=2 would be a different experiment: the run has 1.",
    "init.freeze=backbone": "init.freeze=backbone would be a different experiment: the run has null.",
    "model=vit_small": "resume=latest takes single keys, not model=vit_small, which sets a whole group, e.g. model.",
    "optimizer=sgd": "resume=latest takes single keys, not optimizer=sgd, which sets a whole group",
    "experiment=mnist": "resume=latest takes single keys, not experiment=mnist, which sets a whole group\n",
    "--multirun": "--multirun resume=latest: no sweeps in multirun below",
    "hydra.mode=MULTIRUN": "--multirun resume=latest: no sweeps in multirun below",
    "hydra.run.dir=here": "resume=latest continues in the run's own folder; leave hydra.run.dir out",
    "--config-name=inference": "resume=latest uses the run's own configuration; leave --config-name out",
    "check=true": "resume=latest continues training, but check=true does not train; type only one",
    "check=report": "resume=latest continues training, but check='report' does not train; type only one",
    "training.epohcs=3": "training.epohcs is not a key. Did you mean training.epochs?",
    "+model.num_layer=1": "model.num_layer is not a key. Did you mean model.num_layers?",
    "training.epochs=x": "training.epochs=x is not a whole number",
    "optimizer.eps=1": "optimizer.eps means nothing for optimizer=sgd",
    "training.lr=1 optimizer.lr=2": "training.lr=1.0 and optimizer.lr=2.0 are one learning rate; type only one",
}


@pytest.mark.parametrize("typed", REFUSED)
def test_what_cannot_go_with_resume_is_refused_and_leaves_the_run_as_it_was(
    typed: str, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    before = digest(run)
    words = [typed] if "{" in typed else typed.split()
    code, calls = start(monkeypatch, run, "resume=latest", *words)
    error = capsys.readouterr().err
    assert code == 1 and not calls
    assert error.startswith(f"error: {REFUSED[typed]}") and len(error.splitlines()) <= 3
    assert digest(run) == before and not list(Path.cwd().iterdir())


def test_a_refusal_names_the_folder_whose_weights_a_new_run_can_begin_with(tmp_path: Path) -> None:
    saved = SavedRun(save_run(tmp_path / "my run", make_config()), "stopped", {})
    config = read_config(saved)
    with pytest.raises(ValueError, match=re.escape(f"init.weights='{tmp_path}/my run' initializes it")):
        refuse_changes(saved, config, replace(config, seed=1))


def test_typing_what_the_run_has_is_no_change(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    same = ["model.num_layers=4", "seed=3", "model.image_size=8", "training.batch_size=16", "check=false"]
    code, calls = start(monkeypatch, run, "resume=latest", *same)
    assert code == 0 and calls[0][0] == replace(load_config(run / "config.yaml"), resume=str(run))


def test_the_tables_of_what_may_change_name_keys_that_exist() -> None:
    keys = list_keys(TrainConfig)
    assert set(FIXED) <= set(keys)
    assert {pattern.removesuffix(".*") for pattern in CHANGEABLE} <= set(keys)


def test_the_data_may_lie_elsewhere_by_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after ${HOME}"
    before.mkdir()
    other = save_run(tmp_path / "photos", make_config("dataset=image_folder", f"dataset.root='{before}'"))
    before.rename(after)
    code, calls = start(monkeypatch, other, "resume=latest", f"dataset.root={after}", "dataset.cache=off")
    assert code == 0 and calls[0][0].dataset.root == str(after) and calls[0][0].dataset.cache == "off"
    assert start(monkeypatch, other, "resume=latest")[0] == 1


def test_keys_younger_than_the_run_get_todays_values(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = load_config(run / "config.yaml")

    def age(values: dict[str, Any]) -> None:
        for key in ("init", "resume"):
            del values[key]
        for key in ("profile", "checkpoint_minutes"):
            del values["training"][key]
        for group, key in (("augmentation", "repeats"), ("optimizer", "nesterov"), ("optimizer", "eps")):
            del values[group][key]

    edit_saved(run, age)
    code, calls = start(monkeypatch, run, "resume=latest")
    assert code == 0 and calls[0][0] == replace(saved, resume=str(run))
    assert (
        calls[0][0].optimizer.nesterov is True and calls[0][0].optimizer.eps is None
    )  # as in sgd.yaml, not adamw.yaml


def test_an_old_run_is_read_within_a_job_of_hydra_too(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = load_config(run / "config.yaml")
    edit_saved(run, lambda values: values.pop("init"))
    read: list[TrainConfig] = []

    def main(config: TrainConfig, job: Job) -> None:
        read.append(load_config(run / "config.yaml"))

    code, _ = start(monkeypatch, run, "--multirun", "seed=1,2", main=main)
    assert code == 0 and read == [saved, saved]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "config.yaml is not a valid configuration: while parsing"),
        ("", "config.yaml is not a valid configuration: it is empty or damaged\n"),
        ("- 3\n", "config.yaml is not a valid configuration: it is empty or damaged\n"),
        ("model: 3\n", "config.yaml is not a valid configuration"),
        ("modle: {}\n", "config.yaml has keys that this version does not know (modle): a newer one wrote it"),
    ],
)
def test_a_run_whose_configuration_is_damaged_is_named(
    text: str, message: str, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (run / "config.yaml").write_text(text)
    code, calls = start(monkeypatch, run, "resume=latest")
    error = capsys.readouterr().err
    assert code == 1 and not calls and message in error and "Traceback" not in error


def test_choices_that_cannot_be_read_are_none(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("{", "[]", '{"choices": 3}'):
        (run / "environment.json").write_text(text)
        assert start(monkeypatch, run, "resume=latest")[1][0][1].choices == {}


def test_text_in_a_strangers_run_is_not_interpolated(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("SECRET", "cpu")
    edit_saved(run, lambda values: values["dataset"].update(cache_dir="/tmp/${oc.env:SECRET}"))
    _, [(config, _)] = start(monkeypatch, run, "resume=latest")
    assert config.dataset.cache_dir == "/tmp/${oc.env:SECRET}"


def test_the_configuration_of_a_resumed_run_is_shown_on_request(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    before = digest(run)
    code, calls = start(monkeypatch, run, "--cfg", "job", "resume=latest", "training.epochs=12")
    shown = yaml.safe_load(capsys.readouterr().out)
    assert code == 0 and not calls and digest(run) == before
    assert (shown["seed"], shown["training"]["epochs"], shown["optimizer"]["name"]) == (3, 12, "sgd")


def test_a_resumed_folder_is_never_removed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of its own that leaves nothing but .hydra loses its folder; here that may be all there is left."""

    def main(config: TrainConfig, job: Job) -> None:
        for name in ("config.yaml", "environment.json"):
            (run / name).unlink()
        raise ValueError("broken data set")

    assert start(monkeypatch, run, "resume=latest", main=main)[0] == 1
    assert list(digest(run)) == [str(run / ".hydra"), str(run / ".hydra" / "config.yaml")]


def test_a_file_that_would_resume_with_every_start_is_refused(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    extra = run.parent / "extra" / "experiment"
    extra.mkdir(parents=True)
    (extra / "mine.yaml").write_text("# @package _global_\nresume: latest\n")
    code, calls = start(monkeypatch, run, "experiment=mine", "--config-dir", str(extra.parent))
    assert code == 1 and not calls
    assert capsys.readouterr().err.startswith("error: resume=latest is set in a file; type it instead: python train.py")


@pytest.mark.parametrize("arguments", [(), ("resume=latest",), ("--multirun", "seed=0,1,2")])
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Interrupted(signal.SIGINT), 130),
        (Interrupted(signal.SIGTERM), 143),
        (Interrupted(signal.SIGUSR1), 138),
        (KeyboardInterrupt(), 130),
    ],
)
def test_a_signal_ends_everything_with_its_own_exit_code_and_no_traceback(
    error: KeyboardInterrupt,
    code: int,
    arguments: tuple[str, ...],
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    def main(config: TrainConfig, job: Job) -> None:
        raise error

    found, calls = start(monkeypatch, run, *arguments, main=main)
    name = {130: "Ctrl-C", 143: "SIGTERM", 138: "SIGUSR1"}[code]
    line = "" if "--multirun" in arguments else f"stopped by {name} before training began"  # a sweep shows its ranking
    assert found == code and len(calls) == 1 and capsys.readouterr().err.strip() == line


def test_a_signal_while_a_run_is_looked_for_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(value: str) -> Path:
        raise Interrupted(signal.SIGTERM)

    monkeypatch.setattr(sys, "argv", ["train.py", "resume=latest"])
    answer_resume(monkeypatch, find)
    assert launch(lambda config, job: None, "config", TrainConfig) == 143


def test_the_full_error_of_hydra_is_still_to_be_had(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def main(config: TrainConfig, job: Job) -> None:
        raise ValueError("broken data set")

    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ValueError, match="broken data set"):
        start(monkeypatch, run, "resume=latest", main=main)


@pytest.fixture
def temporary(run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which temporary ones are made."""
    folder = run.parent / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def become(monkeypatch: pytest.MonkeyPatch, rank: int, local_rank: int | None = None) -> None:
    """Be one of two processes, as torchrun tells them."""
    local_rank = rank if local_rank is None else local_rank
    for key, value in (("RANK", rank), ("LOCAL_RANK", local_rank), ("WORLD_SIZE", 2)):
        monkeypatch.setenv(key, str(value))


@pytest.mark.parametrize("arguments", [(), ("resume=latest",), ("--multirun", "seed=0,1"), ("hydra.run.dir=mine",)])
@pytest.mark.parametrize("error", [None, ValueError("broken"), Interrupted(signal.SIGTERM)])
def test_all_processes_but_the_first_work_in_a_temporary_folder_that_goes_away(
    error: BaseException | None,
    arguments: tuple[str, ...],
    run: Path,
    temporary: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    become(monkeypatch, 1)
    before, place = digest(run), Path.cwd()

    def main(config: TrainConfig, job: Job) -> None:
        assert not list(job.folder.iterdir())
        (job.folder / "made").touch()
        if error is not None:
            raise error

    code, calls = start(monkeypatch, run, *arguments, main=main)
    assert code == {type(None): 0, ValueError: 1, Interrupted: 143}[type(error)]
    assert all(job.folder.is_relative_to(temporary) for _, job in calls)
    assert calls[0][0].resume == (str(run) if "resume=latest" in arguments else None)
    assert not list(temporary.iterdir()) and not list(place.iterdir()) and digest(run) == before
    assert capsys.readouterr().out == ""


def test_a_process_that_the_launcher_ends_early_leaves_no_folder(
    run: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    become(monkeypatch, 1)
    before = signal.getsignal(signal.SIGTERM)
    code, _ = start(monkeypatch, run, main=lambda config, job: os.kill(os.getpid(), signal.SIGTERM))
    assert code == 143
    assert not list(temporary.iterdir()) and signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("arguments", [("seed=0",), ("--multirun", "seed=0,1"), ("resume=latest",)])
def test_the_first_process_owns_the_folder(
    arguments: tuple[str, ...], run: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    become(monkeypatch, 0)
    _, calls = start(monkeypatch, run, *arguments, main=lambda config, job: (job.folder / "made").touch())
    places = {"seed=0": Path("outputs"), "--multirun": Path("multirun"), "resume=latest": run}
    for _, job in calls:
        assert job.folder.is_relative_to(Path.cwd() / places[arguments[0]]) and (job.folder / "made").is_file()
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_in_one_of_several_processes_ends_it_at_once(
    rank: int, full: bool, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    become(monkeypatch, rank)
    if full:
        monkeypatch.setenv("HYDRA_FULL_ERROR", "1")

    def main(config: TrainConfig, job: Job) -> None:
        raise ValueError("no images")

    code, calls = start(monkeypatch, run, "--multirun", "seed=0,1,2", main=main)
    error = capsys.readouterr().err
    prefix = "[rank 1] " if rank else ""
    assert code == 1 and len(calls) == 1 and not list(Path.cwd().rglob(".hydra"))
    if full:
        assert error.startswith(f"{prefix}Traceback") and error.endswith(f"{prefix}ValueError: no images\n")
    else:
        assert error == f"{prefix}error: no images\n"


def test_a_defect_in_one_of_several_processes_shows_its_traceback_with_its_rank(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def main(config: TrainConfig, job: Job) -> None:
        raise KeyError("a defect")

    become(monkeypatch, 1)
    assert start(monkeypatch, run, main=main)[0] == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "[rank 1] Traceback (most recent call last):" and lines[-1] == "[rank 1] KeyError: 'a defect'"
    assert all(line.startswith("[rank 1] ") for line in lines)


@pytest.mark.parametrize(("rank", "local_rank", "waited"), [(0, 0, []), (1, 1, [10.0]), (1, 0, [])])
def test_a_mistake_is_told_by_the_first_process_of_a_machine_the_others_wait_to_be_ended(
    rank: int,
    local_rank: int,
    waited: list[float],
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    become(monkeypatch, rank, local_rank)
    told_before: list[str] = []
    seconds: list[float] = []

    def wait(duration: float) -> None:
        seconds.append(duration)
        told_before.append(capsys.readouterr().err)

    monkeypatch.setattr("time.sleep", wait)
    code, calls = start(monkeypatch, run, "model.depth=3")
    assert code == 1 and not calls and seconds == waited and not any(told_before)
    prefix = "[rank 1] " if rank else ""
    assert capsys.readouterr().err == f"{prefix}error: model.depth is not a key. Did you mean model.num_layers?\n"


@pytest.mark.parametrize("words", [("model.depth=3",), ()])
def test_a_launcher_gets_the_words_of_a_process_that_fails(
    words: tuple[str, ...], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def main(config: TrainConfig, job: Job) -> None:
        raise ValueError("no images")

    become(monkeypatch, 0)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    assert start(monkeypatch, run, *words, main=main)[0] == 1
    message = json.loads((tmp_path / "error.json").read_text())["message"]
    told = "error: model.depth is not a key. Did you mean model.num_layers?" if words else "error: no images"
    assert message["message"] == message["extraInfo"]["py_callstack"] == told
    assert int(message["extraInfo"]["timestamp"]) > 0


def test_a_launcher_sees_that_a_process_has_failed(run: Path) -> None:
    code = (
        "import sys\n"
        "from src.config.schema import TrainConfig\n"
        "from src.start.launch import launch\n"
        "def main(config, job): raise RuntimeError('lost')\n"
        "sys.argv = ['train.py', '--multirun', 'seed=0,1']\n"
        "raise SystemExit(launch(main, 'config', TrainConfig))\n"
    )
    environment = {**os.environ, "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert result.returncode == 1 and result.stderr.count("[rank 1] RuntimeError: lost") == 1 and result.stdout == ""


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("python train.py resu", "resume="),
        ("python train.py resume=", "resume=latest"),
        ("python train.py resume=la", "resume=latest"),
        ("python train.py resume=latest training.ep", "training.epochs="),
    ],
)
def test_resume_completes(line: str, offered: str) -> None:
    result = subprocess.run(
        [sys.executable, "train.py", "-sc", "query=bash"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "COMP_LINE": line, "COMP_POINT": str(len(line))},
    )
    assert result.stdout.split() == [offered]


def test_help_shows_resume() -> None:
    shown = subprocess.run([sys.executable, "train.py", "--help"], cwd=ROOT, capture_output=True, text=True).stdout
    assert "\nresume=latest " in shown


@pytest.mark.parametrize(
    "overrides", [[], ["dataset=cifar10", "model.image_size=[64,32]"], ["dataset.mean=[0.1]", "dataset.std=[0.2]"]]
)
def test_completing_a_complete_configuration_changes_nothing(overrides: list[str]) -> None:
    facts = (1169, 10, 3, [0.1, 0.2, 0.3], [0.4] * 3) if "dataset=cifar10" in overrides else (99, 10, 1, [0.1], [0.2])
    once = complete(compose_config(*overrides), *facts)
    assert complete(once, *facts) == once
    assert (once.model.num_classes, once.dataset.mean) == (10, facts[3])
