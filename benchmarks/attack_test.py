"""Attack the program with what a stranger could send: command lines, YAML, images, run folders, sweep folders.

`python benchmarks/attack_test.py --cases 400` tries so many random cases of each class and prints a table of counts. A
case is clean if it works, or is refused by an error of a few lines that a user can act on. It is a fault if it raises
anything else, takes longer than 20 seconds, writes outside of its folder, or gives Hydra a word that is not ours. The
same seed gives the same cases; `--show` prints what was refused, and how.
"""

import argparse
import contextlib
import io
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from src.config.compose import CONFIGS, USER_ERRORS  # noqa: E402
from src.config.inference import InferenceConfig  # noqa: E402
from src.config.keys import list_keys  # noqa: E402
from src.config.options import list_options  # noqa: E402
from src.config.schema import TrainConfig  # noqa: E402
from src.data.decode import Decoded, decode_one  # noqa: E402
from src.data.images import Preprocessing  # noqa: E402
from src.distributed.torchrun import Place  # noqa: E402
from src.machine.streams import CONTROLS, printable  # noqa: E402
from src.run.checkpoint import read_checkpoint  # noqa: E402
from src.run.files import LAST  # noqa: E402
from src.run.query import select_runs  # noqa: E402
from src.run.resume import explain_finished, read_config  # noqa: E402
from src.run.saved import find_all_runs, read_any  # noqa: E402
from src.start.command import parse_command  # noqa: E402
from src.start.messages import explain  # noqa: E402

SECONDS = 20
SAVED = ROOT / "tests" / "saved"
MARK = "attacked"  # the name of a file that only executed code would make
CODE = f"{{_target_: pathlib.Path.touch, self: {{_target_: pathlib.Path, _args_: [{MARK}]}}}}"
FOREIGN = (
    f"+hydra.callbacks.x={CODE}",
    f"++hydra.callbacks.x={CODE}",
    f"hydra.launcher.setup=[touch {MARK}]",
    "hydra/launcher=../../../tmp/x",
    "hydra.searchpath=[file:///tmp]",
    "experiment=../../x",
    "model.pooling=${oc.env:HOME}",
    "dataset.root=${oc.env:HOME}",
    "sweep.params={+hydra.callbacks.x: 1}",
    "~model",
    "+hydra.job.env_set.X=1",
    f"--experimental-rerun={MARK}.pickle",
    "hydra.sweep.dir=../..",
    "hydra.run.dir=/tmp/x",
)
VALUES = (
    *("inf", "-inf", "nan", "-1", "0", "1e308", "1e-300", "1000000000", "99999999999999999999", "2.5", "true", "null"),
    *("None", "", "''", "'", '"', "[]", "[1,2", "{}", "{a:1}", "[[1]]", "[inf]", "a,b", "1,2,3", "range(0,100000000)"),
    *("glob(*)", "choice()", "choice(1,2)", "interval(0,1)", "tag(log,interval(0,1))", "sort(3,1)", "int(2.7)"),
    *("${oc.env:HOME}", "${model.num_heads}", "${x", "$x", "???", "../..", "/dev/zero", "/", "~", "é"),
    *("\x1b[31mred", "a\nb"),
    *("=", "==", "=~", "a b", "a=b", "https://example.org/x", "gpu", "cpu:5", "mps:3", "2", "yes", "[0.5,0.5,0.5]"),
)
FLAGS = (
    *("--multirun", "--cfg", "job", "--help", "--resolve", "--info"),
    *("--epochs=5", "--set", "-c", "--config-dir", "x"),
)
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")


class TooLongError(BaseException):
    """A case took longer than SECONDS."""


@dataclass
class Refused(Exception):  # noqa: N818 - a good end, with the words that a user reads
    words: str


@contextlib.contextmanager
def limited() -> Iterator[None]:
    def stop(number: int, frame: object) -> None:
        raise TooLongError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def attempt(case: Callable[[random.Random], None], seed: int) -> tuple[str, str]:
    """Run a case in an empty folder; return "works", "refused" or "fault", and the words of the error."""
    chosen = random.Random(seed)
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as outer:
        folder = Path(outer, "here")
        folder.mkdir()
        os.chdir(folder)
        try:
            with limited(), contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
                case(chosen)
            end, words = "works", ""
        except Refused as refused:
            end, words = judge(refused.words)
        except SystemExit as error:
            end, words = "refused", f"exit {error.code}"
        except TooLongError:
            end, words = "fault", f"more than {SECONDS} s"
        except BaseException as error:
            end, words = "fault", f"{type(error).__name__}: {error}"
        finally:
            os.chdir(here)
        if sorted(os.listdir(outer)) != ["here"] or any(Path(outer).rglob(MARK)):
            end, words = "fault", "wrote outside, or ran code"
    return end, words


def judge(words: str) -> tuple[str, str]:
    shown = printable(words)
    if not words.strip() or len(shown.splitlines()) > 16 or len(shown) > 6000:
        return "fault", f"an error of {len(shown.splitlines())} lines"
    return ("fault", "an escape sequence") if CONTROLS.search(shown) else ("refused", shown)


def parse(*words: str, schema: type = TrainConfig) -> Any:
    """Parse a command line as the program does. Raises Refused with the words of an error for users."""
    name = "config" if schema is TrainConfig else "inference"
    try:
        return parse_command([f"{name}.py", *words], name, schema, Place())
    except USER_ERRORS as error:
        raise Refused(explain(error, schema, CONFIGS)) from error


def attack_command_line(chosen: random.Random) -> None:
    """Random values for random keys, with flags of Hydra and of other tools."""
    schema = chosen.choice([TrainConfig, TrainConfig, InferenceConfig])
    keys = list_keys(schema)
    words = [f"{chosen.choice(keys)}={chosen.choice(VALUES)}" for _ in range(chosen.randint(1, 3))]
    if chosen.random() < 0.3:
        words.insert(chosen.randrange(len(words) + 1), chosen.choice(FLAGS))
    if chosen.random() < 0.3:
        words.insert(0, "--multirun")
    if chosen.random() < 0.1:
        words.append(chosen.choice(VALUES))
    parse(*words, schema=schema)


def attack_config(chosen: random.Random) -> None:
    """A recipe in a folder of configurations, with random values, damaged, or naming itself."""
    lines = ["# @package _global_", "defaults:", "  - _self_"]
    if chosen.random() < 0.2:
        default = chosen.choice(["mine", "override /model: mine", "override /dataset: ../x", "/mine", "7"])
        lines.insert(2, f"  - {default}")
    for _ in range(chosen.randint(1, 4)):
        group, _, key = chosen.choice([key for key in list_keys(TrainConfig) if "." in key]).partition(".")
        lines += [f"{group}:", f"  {key}: {chosen.choice(VALUES)}"]
    text = "\n".join(lines) + "\n"
    if chosen.random() < 0.3:
        text = damage_text(text, chosen)
    folder = Path("configs", "experiment")
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(text, encoding="utf-8")
    parse("experiment=mine", "--config-dir", "configs")


def damage_text(text: str, chosen: random.Random) -> str:
    """Cut, repeat or replace a part of a text."""
    place = chosen.randrange(len(text))
    odd = chosen.choice(["\0", "\t", "[" * 50, "{" * 3, "&a *a", "\x1b[2J", ": :", "- - -", '"', "é\u202e", ""])
    return chosen.choice([text[:place], text[:place] + odd + text[place + chosen.randint(0, 9) :], text + text[place:]])


def attack_image(chosen: random.Random) -> None:
    """A picture of a usual format, cut, filled with zeros, or with random bytes; or no file at all."""
    size = chosen.randint(1, 60), chosen.randint(1, 60)
    pixels = np.random.default_rng(chosen.randrange(2**32)).integers(0, 256, (size[1], size[0], 3), np.uint8)
    kind = chosen.choice(FORMATS)
    packed = io.BytesIO()
    Image.fromarray(pixels).save(packed, kind)
    content = bytearray(packed.getvalue())
    place = chosen.randrange(len(content))
    how = chosen.choice(["cut", "zeros", "bytes", "claim", "array", "irregular"])
    path = Path(f"x.{kind.lower()}")
    if how == "irregular":
        make_irregular(path, chosen)
    elif how == "array":
        path = Path("x.npy")
        shape = tuple(chosen.choice([0, 1, 3, 40, 10**6, 2**40, -1]) for _ in range(chosen.randint(0, 4)))
        header = {"descr": chosen.choice(["|u1", "<f8", "|O", "<M8[s]", "x"]), "fortran_order": False, "shape": shape}
        line = repr(header).encode()
        path.write_bytes(b"\x93NUMPY\x01\0" + len(line).to_bytes(2, "little") + line + bytes(content[:100]))
    else:
        if how == "cut":
            del content[place:]
        elif how == "zeros":
            content[place:] = bytes(len(content) - place)
        elif how == "claim" and kind == "JPEG":
            frame = max(content.find(b"\xff\xc0"), 0)
            content[frame + 5 : frame + 9] = (12000).to_bytes(2, "big") * 2
        else:
            for _ in range(chosen.randint(1, 20)):
                content[chosen.randrange(len(content))] = chosen.randrange(256)
        path.write_bytes(content)
    decoded = decode_one(path, Preprocessing((8, 8), "crop", "bicubic", 3))
    if isinstance(decoded, OSError):
        raise Refused(str(decoded))
    assert isinstance(decoded, Decoded)
    early = how == "cut" and place < 0.9 * len(packed.getvalue()) or how == "zeros" and place < 0.7 * len(content)
    lost = (early and kind in ("PNG", "JPEG")) or (how == "claim" and kind == "JPEG")
    assert not lost, f"a {kind} with {how} was taken for whole"


def make_irregular(path: Path, chosen: random.Random) -> None:
    """Put something there that cannot be read to its end: a pipe, a device, a folder, or 40 GB of zeros."""

    def make_sparse() -> None:
        with path.open("wb") as file:
            file.truncate(40 * 2**30)

    chosen.choice([lambda: os.mkfifo(path), lambda: path.symlink_to("/dev/zero"), path.mkdir, make_sparse])()


def odd_json(chosen: random.Random) -> Any:
    """Return a value that is not what a file of a run holds."""
    deep: Any = []
    for _ in range(chosen.randint(1, 60)):
        deep = [deep]
    return chosen.choice(
        [None, True, -1, 10**400, 1e308, float("nan"), "x", "\x1b[2J", "a\nb", [], {}, deep, [1, "x"], {"a": 1}]
    )


def put_odd(value: Any, chosen: random.Random) -> Any:
    """Return a JSON value with an odd one somewhere in it."""
    if isinstance(value, dict) and value and chosen.random() < 0.9:
        key = chosen.choice(list(value))
        return {**value, key: put_odd(value[key], chosen)}
    if isinstance(value, list) and value and chosen.random() < 0.9:
        place = chosen.randrange(len(value))
        return [*value[:place], put_odd(value[place], chosen), *value[place + 1 :]]
    return odd_json(chosen)


def damage_file(path: Path, chosen: random.Random) -> None:
    """Replace a file by another content, or by something that is no file."""
    how = chosen.choice(["json", "json", "json", "text", "bytes", "bomb", "deep", "irregular", "gone"])
    content = path.read_bytes()
    if how == "json" and path.suffix == ".json":
        path.write_text(json.dumps(put_odd(json.loads(content), chosen)), encoding="utf-8")
    elif how in ("json", "text") and path.suffix in (".json", ".yaml", ".csv", ".log"):
        path.write_text(damage_text(content.decode(), chosen), encoding="utf-8")
    elif how == "bomb":
        lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
        for old, new in itertools.pairwise("abcdefghi"):
            lines.append(f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]")
        path.write_text("\n".join(lines))
    elif how == "deep":
        path.write_text("[" * chosen.choice([50, 100_000]))
    elif how in ("irregular", "gone"):
        path.unlink()
        if how == "irregular":
            make_irregular(path, chosen)
    else:
        damaged = bytearray(content)
        for _ in range(chosen.randint(1, 40)):
            damaged[chosen.randrange(len(damaged))] = chosen.randrange(256)
        path.write_bytes(damaged[: chosen.randint(1, len(damaged))])


def attack_run(chosen: random.Random) -> None:
    """A run folder with one file damaged: listed, read for prediction, and asked to continue."""
    saved = chosen.choice([path.parent for path in sorted(SAVED.rglob("status.json"))])
    folder = Path("outputs", "run")
    shutil.copytree(saved, folder)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and ".hydra" not in path.parts]
    damage_file(chosen.choice(files), chosen)
    refusals = []
    runs, problems = find_all_runs(["outputs"])
    select_runs(runs, "val_acc>0 training.lr>0 model.num_layers=4", "minutes")
    assert all(len(problem.splitlines()) == 1 or judge(problem)[0] == "refused" for problem in problems)
    for step in (
        lambda: [(run.load(), run.history(), run.images_per_second(), run.dataset) for run in runs],
        lambda: read_config(read_any(folder)),
        lambda: explain_finished(folder, read_config(read_any(folder))),
        lambda: read_checkpoint(folder / LAST),
        lambda: parse_command(["train.py", "resume=outputs/run"], "config", TrainConfig, Place()),
    ):
        try:
            step()
        except USER_ERRORS as error:
            refusals.append(explain(error, TrainConfig, CONFIGS))
    if refusals or problems:
        raise Refused((refusals or problems)[0])


def attack_sweep(chosen: random.Random) -> None:
    """A sweep folder with a hostile word, or with its plan damaged, asked to continue."""
    shutil.copytree(SAVED / "multirun" / "sweep", Path("multirun", "x", "sweep"))
    path = Path("multirun", "x", "sweep", "sweep.json")
    plan = json.loads(path.read_text())
    word, kind = chosen.choice(FOREIGN), chosen.choice(["word", "job", "folder", "json", "damage"])
    if kind == "word":
        plan[chosen.choice(["overrides", "hydra", "flags"])].append(word)
    elif kind == "job":
        chosen.choice(plan["jobs"])["overrides"].append(word)
    elif kind == "folder":
        folders = ["../../..", "/tmp/x", ".hydra", "", "a/../../b", "\0", "."]
        chosen.choice(plan["jobs"])["folder"] = chosen.choice(folders)
    elif kind == "json":
        plan = put_odd(plan, chosen)
    path.write_text(json.dumps(plan))
    if kind == "damage":
        damage_file(path, chosen)
    command = parse("--multirun", "resume=latest")
    words = [*command.words, *(word for job in command.sweep.plan.jobs for word in job.overrides)]
    assert not set(words) & set(FOREIGN), "a foreign word was taken"
    assert not any("oc.env" in word or "_target_" in word for word in words), "a foreign word was taken"


ATTACKS: dict[str, Callable[[random.Random], None]] = {
    "command lines": attack_command_line,
    "YAML files": attack_config,
    "images": attack_image,
    "run folders": attack_run,
    "sweep folders": attack_sweep,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100, help="of each class")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=list(ATTACKS), help="one class of attacks")
    parser.add_argument("--show", action="store_true", help="print what each case was answered")
    args = parser.parse_args()
    assert list_options("model"), "run it in a clone"
    print("| class | tried | works | refused in words | faults | seconds |\n| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, case in ATTACKS.items():
        if args.only not in (None, name):
            continue
        started, counts, faults = time.perf_counter(), Counter[str](), []
        for seed in range(args.seed, args.seed + args.cases):
            end, words = attempt(case, seed)
            counts[end] += 1
            if args.show or end == "fault":
                faults.append(f"  {name} {seed}: {end}: {words}")
        ends = " | ".join(str(counts[end]) for end in ("works", "refused", "fault"))
        print(f"| {name} | {args.cases} | {ends} | {time.perf_counter() - started:.0f} |", flush=True)
        print("\n".join(faults), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
