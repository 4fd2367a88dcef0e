"""Files of strangers, and two processes at once: nothing is executed, lost, or answered by a traceback."""

import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from helpers import compose, compose_inference, make_folder, photo_overrides, train_run

from src.config.schema import TrainConfig
from src.config.size import estimate_parameters
from src.data.images import Preprocessing
from src.engine import memory
from src.machine import disk, processes
from src.machine.processes import start_time
from src.machine.streams import CONTROLS, printable, printable_cell
from src.model import VisionTransformer
from src.run.checkpoint import read_checkpoint
from src.run.claim import hold_folder, refuse_links, remove_unused
from src.run.files import LAST
from src.run.saved import find_all_runs, read_run
from src.start import folders
from src.start.folders import claim_folder, make_rank_folder
from src.start.launch import launch
from src.start.trust import find_problem
from src.sweep.plan import is_plain

ROOT = Path(__file__).resolve().parents[1]
SAVED = ROOT / "tests" / "saved"
PLAIN = Preprocessing((8, 8), "crop", "bicubic", 3)


def load_attacks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("attack_test", ROOT / "benchmarks" / "attack_test.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["attack_test"] = module
    spec.loader.exec_module(module)
    return module


attacks = load_attacks()


def run_main(monkeypatch: pytest.MonkeyPatch, *words: str, main: Any = None) -> int:
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    return launch(main or (lambda config, job: None), "config", TrainConfig)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The runs and the sweep of an earlier version, in the user's folder."""
    shutil.copytree(SAVED, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.mark.parametrize("name", list(attacks.ATTACKS))
def test_random_attacks_are_answered_in_words(name: str) -> None:
    ends = [attacks.attempt(attacks.ATTACKS[name], seed) for seed in range(1000, 1008)]
    assert [end for end in ends if end[0] == "fault"] == [] and any(end[0] == "refused" for end in ends)


# sweeps of strangers


@pytest.mark.parametrize(
    ("word", "place"),
    [
        (word, ("overrides", "hydra", "flags", "jobs")[(i + j) % 4])
        for i, word in enumerate(attacks.FOREIGN)
        for j in (0, 1)
    ],
)
def test_a_strangers_sweep_runs_nothing(
    word: str, place: str, work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    path = work / "multirun" / "sweep" / "sweep.json"
    plan = json.loads(path.read_text())
    (plan["jobs"][0]["overrides"] if place == "jobs" else plan[place]).append(word)
    path.write_text(json.dumps(plan))
    called: list[Any] = []
    code = run_main(monkeypatch, "--multirun", "resume=multirun/sweep", main=lambda *facts: called.append(facts))
    folders_of_hydra = place == "hydra" and word.startswith(("hydra.sweep.dir", "hydra.run.dir"))  # not used at all
    assert folders_of_hydra or (code == 1 and not called and "Traceback" not in capsys.readouterr().err)
    assert not list(work.rglob(attacks.MARK)) and sorted(os.listdir(work.parent)) == ["work"]


def test_a_sweep_of_ones_own_continues_with_references_and_what_is_typed_again(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    path = work / "multirun" / "sweep" / "sweep.json"
    plan = json.loads(path.read_text())
    plan["hydra"].append("hydra.job.chdir=false")
    path.write_text(json.dumps(plan))
    run_main(monkeypatch, "--multirun", "resume=multirun/sweep")
    assert "hydra.job.chdir=false, which could run code and is not taken from a file" in capsys.readouterr().err
    run_main(monkeypatch, "--multirun", "resume=multirun/sweep", "hydra.job.chdir=false")
    assert "jobs      2 jobs" in capsys.readouterr().out
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parser = OverridesParser.create()
    for word in (
        "model.mlp_ratio=${model.num_heads}",
        "seed=0,1",
        "experiment=digits",
        "training.lr=1e-3",
        "model=vit_tiny",
    ):
        assert find_problem(word, parser) == ""
    for word in (
        "model.mlp_ratio=${oc.env:X}",
        "model.pooling=${a:b}",
        "+model.x=1",
        "~model",
        "model=../x",
        "x=1",
        *("resume=x", "dataset=range(0,1000000000)", "dataset={root: x}", "model=[vit_tiny]"),
        *(
            f"dataset.cache_dir={quote}{slashes}${{oc.env:X}}{quote}"
            for quote in ("", "'")
            for slashes in ("", "\\", "\\\\")
        ),
    ):
        assert find_problem(word, parser)


@pytest.mark.parametrize(
    "folder", ["..", "a" * 300, "../x", "/tmp/x", "a/../../x", "", ".", ".hydra", "a/.hydra", "\0", 3, None]
)
def test_folders_of_jobs_stay_in_the_sweep(folder: Any) -> None:
    assert not is_plain(folder) and is_plain("0") and is_plain("lr=0.1,seed=2") and is_plain("a/b")


def test_typed_folders_of_jobs_stay_in_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_main(monkeypatch, "--multirun", "seed=0,1", "hydra.sweep.subdir=../../${hydra.job.num}") == 1
    assert "is not a folder inside that of the sweep" in capsys.readouterr().err and not list(tmp_path.iterdir())


# two at once


def test_one_of_two_processes_gets_an_empty_folder_and_the_other_removes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    words = [f"hydra.run.dir={folder}"]
    with ExitStack() as first:
        assert claim_folder(folder, "hydra.run.dir", words, first) == (folder, False)
        with pytest.raises(ValueError, match="exists; nothing is overwritten"), ExitStack() as second:
            claim_folder(folder, "hydra.run.dir", words, second)
        assert folder.is_dir() and (folder / ".lock").exists()
    assert folder.is_dir() and not list(folder.iterdir()), "a folder of the user's stays, empty as it was"


def test_a_folder_that_a_process_made_goes_if_nothing_came_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with ExitStack() as cleanup:
        folder, made = claim_folder(Path("outputs/day/time"), "hydra.run.dir", [], cleanup)
        (folder / ".hydra").mkdir()
        assert made
    assert not list(tmp_path.iterdir())
    with ExitStack() as cleanup:
        folder, _ = claim_folder(Path("outputs/day/time"), "hydra.run.dir", [], cleanup)
        (folder / "status.json").touch()
    assert (folder / "status.json").exists()


def test_starts_in_the_same_second_get_different_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    claimed: list[Path] = []
    with ExitStack() as cleanup:

        def claim() -> None:
            claimed.append(claim_folder(Path("outputs/day/time"), "hydra.run.dir", [], cleanup)[0])

        threads = [threading.Thread(target=claim) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(claimed)) == 8


def test_a_run_that_another_process_continues_is_refused(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    folder = next(path.parent for path in sorted((work / "outputs").rglob("config.yaml")) if ".hydra" not in path.parts)
    called: list[Any] = []
    with hold_folder(folder, "taken"):
        assert run_main(monkeypatch, f"resume={folder}", main=lambda *facts: called.append(facts)) == 1
    assert "is in use by another process" in capsys.readouterr().err and not called
    assert run_main(monkeypatch, f"resume={folder}", main=lambda *facts: called.append(facts)) == 0 and called


def test_the_first_of_two_equal_sweeps_keeps_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--multirun", "seed=0,1", "hydra.sweep.dir=here"]
    (tmp_path / "here").mkdir()
    with hold_folder(tmp_path / "here", "taken"):  # by the first, which has written no plan yet
        assert run_main(monkeypatch, *words) == 1
    assert (tmp_path / "here").is_dir() and "here exists" in capsys.readouterr().err


# links


def test_a_job_folder_that_leads_elsewhere_is_refused(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    path = work / "multirun" / "sweep" / "sweep.json"
    plan = json.loads(path.read_text())
    plan["jobs"][0]["folder"] = "x/0"
    path.write_text(json.dumps(plan))
    (work.parent / "victim").mkdir()
    (work / "multirun" / "sweep" / "x").mkdir()
    (work / "multirun" / "sweep" / "x" / "0").symlink_to(work.parent / "victim")
    assert run_main(monkeypatch, "--multirun", "resume=multirun/sweep") == 1
    assert "x/0 is a link" in capsys.readouterr().err and not list((work.parent / "victim").iterdir())


def test_a_disk_without_locks_is_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("src.run.claim.FileLock.acquire", fail)
    with ExitStack() as cleanup:
        folder, made = claim_folder(tmp_path / "a", "hydra.run.dir", [], cleanup)
        assert made and folder.is_dir()
    assert not list(tmp_path.iterdir())


def test_removing_empty_folders_at_once_harms_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    errors: list[BaseException] = []

    def start(name: int) -> None:
        try:
            for number in range(40):
                with ExitStack() as cleanup:
                    claim_folder(Path(f"outputs/day/{name}-{number}"), "hydra.run.dir", [], cleanup)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=start, args=(name,)) for name in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["train.log", ".config.yaml.tmp", "checkpoints", "tensorboard", "metrics.csv", ".lock"]
)
def test_a_resumed_run_writes_through_no_link(
    name: str, work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    folder = next(path.parent for path in sorted((work / "outputs").rglob("config.yaml")) if ".hydra" not in path.parts)
    outside = work.parent / "outside"
    outside.mkdir()
    (outside / "kept").write_text("mine")
    target = outside if name in ("checkpoints", "tensorboard") else outside / "kept"
    if (folder / name).is_dir():
        shutil.rmtree(folder / name)
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(target)
    called: list[Any] = []
    assert run_main(monkeypatch, f"resume={folder}", main=lambda *facts: called.append(facts)) == 1 and not called
    assert f"{name} is a link, to {target}" in capsys.readouterr().err
    assert (outside / "kept").read_text() == "mine" and len(list(outside.iterdir())) == 1


def test_files_are_replaced_and_appended_to_but_never_through_a_link(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("mine")
    for name in (".x.tmp", "x", "log"):
        (tmp_path / name).symlink_to(kept)
    disk.write_bytes(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"new" and not (tmp_path / "x").is_symlink()
    with pytest.raises(OSError):
        disk.append_text(tmp_path / "log", "more")
    assert kept.read_text() == "mine"
    with pytest.raises(ValueError, match="log is a link"):
        refuse_links(tmp_path)


def test_remove_unused_leaves_what_a_user_has(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "notes.txt").touch()
    remove_unused(tmp_path / "a", made=True)
    assert (tmp_path / "a" / "notes.txt").exists()


# the terminal


def test_nothing_that_is_printed_is_obeyed_by_a_terminal(capsys: pytest.CaptureFixture) -> None:
    evil = "cat\x1b[2J\x1b]0;title\x07\r\x9b31m\u202egnp\nerror: forged"
    shown = printable(evil)
    assert not CONTROLS.search(shown) and "\\x1b[2J" in shown and shown.splitlines()[1] == "  error: forged"
    assert "\n" not in printable_cell(evil) and printable_cell("a\nb") == "a\\nb"
    from src import terminal

    terminal.show_table([evil, "b"], [[evil, "x"]])
    terminal.show_predictions(evil, [(evil, 0.5)])
    terminal.show_report({evil: (1, 2, 3)}, [(evil, [evil])])
    terminal.say(evil)
    terminal.warn(evil)
    printed = "".join(capsys.readouterr())
    assert not CONTROLS.search(printed) and "forged" in printed
    assert not any(line.strip().startswith("error") for line in printed.splitlines())


def test_a_log_is_one_line_for_each_message_of_ours(tmp_path: Path) -> None:
    from src.run.log import LogFile, log, start_log

    start_log(shown=False)
    file = LogFile(tmp_path / "train.log")
    log.warning("%s", "class 'a\x1b[1m\n2026-01-01 INFO test accuracy 100 %'")
    file.close()
    assert len((tmp_path / "train.log").read_text().splitlines()) == 1


# damaged runs


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "\n".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
DAMAGES: list[tuple[str, Any]] = [
    *(("status.json", text) for text in ("[" * 100_000, "null", "[]", '{"status": 3}')),
    *(("config.yaml", text) for text in (BOMB, "[" * 50_000, "- " * 50_000, "model: 3", "\0", "x" * 2**21)),
    *(("classes.json", text) for text in ("{}", "[]", "[1, 2]", '["a"]', "[" * 100_000)),
    *(
        ("preprocessing.json", text)
        for text in ("[]", "{}", '{"size": [8, 8], "channels": 1, "mean": ["x"], "std": [0]}')
    ),
    ("metrics.csv", "epoch,val_acc\n1,2,3,4\n\x1b,x\n"),
    ("environment.json", '{"choices": [], "images": 3, "resumed": "x", "cwd": 5}'),
]


@pytest.mark.parametrize("fact", [f'"best_val_acc": {10**400}', '"started": {"a": 1}', '"epoch": []', '"root": [3]'])
def test_facts_of_a_wrong_kind_are_unknown(fact: str, work: Path) -> None:
    from inference import infer

    path = next(iter(sorted((work / "outputs").rglob("status.json"))))
    path.write_text(f'{{"status": "finished", {fact}}}')
    (run,) = [run for run in find_all_runs(["outputs"])[0] if run.folder.resolve() == path.parent.resolve()]
    assert run.val_acc is None and run.started == "" and run.number("epoch") is None and isinstance(run.dataset, str)
    infer(compose_inference("task=list"), None)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "text"), DAMAGES, ids=[f"{name}-{place}" for place, (name, _) in enumerate(DAMAGES)])
def test_a_damaged_run_is_one_line_and_hides_no_other(name: str, text: str, work: Path) -> None:
    good = next(path.parent for path in sorted((work / "outputs").rglob("status.json")))
    bad = work / "outputs" / "bad"
    shutil.copytree(good, bad)
    (bad / name).write_text(text)
    runs, problems = find_all_runs(["outputs"])
    assert any(run.folder.resolve() == good.resolve() for run in runs) and all("\n" not in line for line in problems)
    assert bool(problems) == (name == "status.json") and all(
        "outputs/bad/status.json is damaged" in line for line in problems
    )
    for run in runs:
        run.choices(), run.minutes, run.images_per_second(), run.timeout()
        for read in (run.load, run.history):
            if run.folder.name == "bad":
                try:
                    read()
                except (ValueError, OSError) as error:
                    assert len(str(error).splitlines()) == 1 and "bad" in str(error) or name == "metrics.csv"
            else:
                read()


def test_foreign_weights_are_refused_in_a_line(work: Path) -> None:
    from safetensors.torch import save_file

    from src.predict.predictor import Predictor

    run = read_run(next(path.parent for path in sorted((work / "outputs").rglob("status.json"))))
    best = run.folder / "checkpoints" / "best.safetensors"
    save_file({f"layer{i}.weight": torch.zeros(3) for i in range(40)}, best)
    with pytest.raises(ValueError, match="damaged or of another model") as caught:
        Predictor(run, "cpu")
    assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 500
    large = run.folder / "config.yaml"
    large.write_text(
        large.read_text()
        .replace("num_layers: 1", "num_layers: 900")
        .replace("embedding_dim: 16", "embedding_dim: 8192")
    )
    if "8192" in large.read_text():
        with pytest.raises(ValueError, match="but the model of this run has"):
            Predictor(run, "cpu")


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["trainer"].update(epoch="x"),
        lambda content: content["trainer"].update(step=-1),
        lambda content: content["trainer"].update(model=[]),
        lambda content: content["trainer"].update(optimizer=None),
        lambda content: content["trainer"].update(loss_sum=torch.zeros(3)),
        lambda content: content["trainer"].update(micro_batch_size=0),
        lambda content: content["run"].update(rows=[1]),
        lambda content: content["run"].update(rows=[{"epoch": "x"}]),
        lambda content: content["run"].update(best={"epoch": 1}),
        lambda content: content["run"].update(seconds=[]),
        lambda content: content.update(run=None),
        lambda content: content.pop("trainer"),
    ],
)
def test_odd_checkpoints_are_named(change: Callable[[dict[str, Any]], Any], work: Path) -> None:
    path = next(iter(sorted(work.rglob(LAST))))
    content = read_checkpoint(path)
    change(content)
    torch.save(content, path)
    with pytest.raises(ValueError, match="last.pt is damaged: .*; delete it, and resume=… starts the run over"):
        read_checkpoint(path)


@pytest.mark.usefixtures("empty_pictures")
def test_a_checkpoint_of_another_model_is_refused_in_a_line(tmp_path: Path) -> None:
    from src.run.job import Job
    from train import train

    root = make_folder(tmp_path / "photos")
    words = photo_overrides(root)
    run = train_run(tmp_path / "run", *words)
    content = torch.load(run.folder / LAST, weights_only=True)
    config = compose(*words, "training.epochs=3")
    trainer = content["trainer"]
    other_model = {**trainer, "model": {**trainer["model"], "head.weight": torch.zeros(99, 16)}}
    changes = {"head.weight": other_model, "it has no param_groups;": {**trainer, "optimizer": {}}}
    for reason, changed in changes.items():
        torch.save({**content, "trainer": changed}, run.folder / LAST)
        with pytest.raises(ValueError, match=f"last.pt is damaged: .*{reason}") as caught:
            train(replace(config, resume=str(run.folder)), Job(run.folder, words, {}))
        assert len(str(caught.value).splitlines()) == 1


# the configuration


@pytest.mark.parametrize(
    "word",
    [
        *(
            "optimizer.eps=inf",
            "training.clip_norm=1e-300",
            "dataset.std=[inf]",
            "model.mlp_ratio=1e-9",
            "device=cpu:5",
        ),
        *("check=2", "dataset.image_size=true", "dataset.image_size=1000000000", "model.num_layers=10000000"),
        *("augmentation.mixup=1e308", "model.embedding_dim=1000000", "device=mps:3", "training.lr=inf", "seed=-1"),
        *("training.epochs=1000000000", "training.batch_size=99999999999", "training.checkpoint_minutes=inf"),
        *("dataset.mean=[nan]", "model.layer_scale=1e-300", "optimizer.weight_decay=1e300", "training.threads=100000"),
    ],
)
def test_values_that_cannot_work_are_refused_at_once(
    word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    started = time.monotonic()
    assert run_main(monkeypatch, word) == 1 and time.monotonic() - started < 10
    error = capsys.readouterr().err
    key = word.partition("=")[0]
    assert error.startswith("error: ") and key in error and "Traceback" not in error and len(error.splitlines()) <= 3


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["seed=range(0,100000000)"], "has more than 10,000 values"),
        (["seed=range(0,200)", "training.lr=range(1,200)"], "39,800 jobs are more than the 10,000 of a sweep"),
        (["seed=glob(*)"], "seed=glob(*)"),
    ],
)
def test_sweeps_that_never_end_are_refused(
    words: list[str], part: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_main(monkeypatch, "--multirun", *words) == 1
    error = capsys.readouterr().err
    assert part in error and "Traceback" not in error and not list(tmp_path.iterdir())


def test_a_file_that_names_itself_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "round.yaml").write_text("defaults:\n  - round\n")
    assert run_main(monkeypatch, "model=round", "--config-dir", "mine") == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error and "circle" in error


def test_a_model_that_cannot_fit_is_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    from src import build

    config = compose("model.embedding_dim=65536", "model.num_layers=900", "model.num_heads=64")
    config = replace(config, model=replace(config.model, num_classes=10, in_channels=3))
    with pytest.raises(ValueError, match="needs more than .* to be trained on one image, but this machine has"):
        build.build_model(config, torch.device("cpu"))
    small = replace(config, model=compose().model)
    built = VisionTransformer(**asdict(replace(small.model, num_classes=10, in_channels=1)))
    assert estimate_parameters(small.model) == pytest.approx(memory.count_parameters(built), rel=0.03)
    assert memory.estimate_memory(config, 8) < memory.estimate_memory(config, 1), "sharded"


@pytest.mark.parametrize(
    ("word", "secret"),
    [
        ("dataset.root=/data/hf_abcdefghijklmnopqrstuv/photos", "hf_abcdefghijklmnopqrstuv"),
        ("dataset.root=s3://me:hunter22@host/photos", "hunter22"),
        ("init.weights=weights.pt?token=0123456789abcdef", "0123456789abcdef"),
        ("hydra.job.env_set.KAGGLE_KEY=0123456789abcdef", "0123456789abcdef"),
    ],
)
def test_a_token_that_was_typed_is_neither_written_nor_shown(
    word: str, secret: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_main(monkeypatch, word) == 1 and not list(tmp_path.iterdir())
    error = capsys.readouterr().err
    assert "looks like an access token" in error and secret not in error and secret[:3] in error


def test_names_that_only_look_like_secrets_are_accepted() -> None:
    from src.start.words import refuse_secrets

    refuse_secrets(["dataset.group_pattern=key=(\\d+)", "dataset.root=/data/monkeys/sk-ink", "seed=1", "input=a?b.jpg"])


# what goes away while a run is at work


def test_memory_that_runs_out_is_known_by_all_its_names() -> None:
    for error in (RuntimeError("could not create a primitive"), MemoryError(), RuntimeError("std::bad_alloc")):
        assert memory.is_out_of_memory(error)
    assert not memory.is_out_of_memory(RuntimeError("shapes do not match"))


@pytest.mark.usefixtures("empty_pictures")
def test_a_full_disk_at_the_first_files_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    from src.run import record

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(record, "write_text", fail)
    with pytest.raises(OSError, match="No space left on device; there is no checkpoint yet; free some space"):
        train_run(tmp_path / "run", *photo_overrides(make_folder(tmp_path / "photos")))


def test_folders_of_killed_processes_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders.tempfile, "tempdir", str(tmp_path))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = f"vit-rank-{re.sub('[^a-zA-Z0-9.]', '.', socket.gethostname())}"
    gone, mine = f"{host}-{dead.pid}-7-1-abc", f"{host}-{os.getpid()}-{start_time(os.getpid())}-1-abc"
    elsewhere = f"vit-rank-elsewhere-{dead.pid}-7-1-abc"  # on another machine that shares the folder
    for name in (gone, mine, elsewhere, "other"):
        (tmp_path / name / ".hydra").mkdir(parents=True)
    with make_rank_folder(1) as made:
        names = {path.name for path in tmp_path.iterdir()}
        assert names == {mine, elsewhere, "other", Path(made).name}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_a_worker_ends_with_the_process_that_started_it() -> None:
    worker = (
        "import time; from src.machine.processes import end_with_parent; end_with_parent();"
        "print(1, flush=True); time.sleep(60)"
    )
    parent = (
        "import subprocess, sys, time;"
        f"w = subprocess.Popen([sys.executable, '-c', {worker!r}], stdout=subprocess.PIPE);"
        "w.stdout.readline(); print(w.pid, flush=True); time.sleep(60)"
    )
    started = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, cwd=ROOT)
    assert started.stdout is not None
    pid = int(started.stdout.readline())
    started.kill()
    started.wait()
    until = time.monotonic() + 20
    while processes.is_alive(pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert not processes.is_alive(pid)
    started.stdout.close()
