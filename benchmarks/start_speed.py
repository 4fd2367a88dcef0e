"""How long commands take: --help, TAB completion, the first training step, the table of runs; whole processes.

    python benchmarks/start_speed.py [--rounds 7] [train.py's settings, such as training.compile=true]

--help and TAB are compared with a bare Hydra application that has the same groups and options, each with one line; the
others with `python -c "import torch"`. In each round, all commands run once; the table has the medians, and the medians
of the differences within a round. A first round, which is not measured, compiles bytecode and fills the file cache. The
first step is on the digits unless the settings are others; the process ends when `train_steps` has yielded once.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
BARE = """
import hydra

@hydra.main(version_base="1.3", config_path="configs", config_name="config")
def main(config):
    pass

main()
"""
# `src.engine.epoch` is patched when train.py imports it, so that nothing is imported earlier than usual.
FIRST_STEP = """
import importlib.util, os, runpy, sys

class EndAfterFirstStep:
    def find_spec(self, name, path, target=None):
        if name != "src.engine.epoch":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module
        def exec_module(module):
            execute(module)
            steps = module.train_steps
            def one(*arguments, **options):
                for step in steps(*arguments, **options):
                    print("first step", flush=True)
                    os._exit(0)
            module.train_steps = one
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, EndAfterFirstStep())
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""
SHORT_RUN = ("training.epochs=1", "training.tensorboard=false")
# Command -> the command that it is compared with.
COMPARED = {
    "train.py --help": "bare Hydra --help",
    "train.py, TAB": "bare Hydra, TAB",
    "train.py, to the first step": "import torch",
    "inference.py task=list": "import torch",
}


def write_bare_application(folder: Path) -> Path:
    """Write a Hydra application with the groups, options and defaults of this one, each option a single line."""
    defaults = yaml.safe_load((ROOT / "configs" / "config.yaml").read_text(encoding="utf-8"))["defaults"]
    groups = {path.parent.name for path in (ROOT / "configs").glob("*/*.yaml")}
    kept = [entry for entry in defaults if entry == "_self_" or (isinstance(entry, dict) and groups & set(entry))]
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "config.yaml").write_text(yaml.safe_dump({"defaults": kept}))
    for option in (ROOT / "configs").glob("*/*.yaml"):
        (folder / "configs" / option.parent.name).mkdir(exist_ok=True)
        (folder / "configs" / option.parent.name / option.name).write_text(f"name: {option.stem}\n")
    (folder / "bare.py").write_text(BARE)
    return folder / "bare.py"


def list_commands(folder: Path, settings: list[str]) -> dict[str, list[str]]:
    bare, first = write_bare_application(folder / "bare"), folder / "first_step.py"
    first.write_text(FIRST_STEP)
    train, tab = str(ROOT / "train.py"), ["-sc", "query=bash"]
    commands = {
        "bare Hydra --help": [str(bare), "--help"],
        "train.py --help": [train, "--help"],
        "bare Hydra, TAB": [str(bare), *tab],
        "train.py, TAB": [train, *tab],
        "import torch": ["-c", "import torch"],
        "train.py, to the first step": [str(first), train, *settings],
        "inference.py task=list": [str(ROOT / "inference.py"), "task=list"],
    }
    return {name: [sys.executable, *command] for name, command in commands.items()}


def run(command: list[str], folder: Path) -> tuple[float, str]:
    """Return the seconds of a command and its output. Raises RuntimeError, with the output, if it fails."""
    line = "python train.py model=vit_"
    environment = os.environ | {"COMP_LINE": line, "COMP_POINT": str(len(line))}
    started = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return seconds, done.stdout


def check_answers(answers: dict[str, str]) -> None:
    """Check that each command did what it is measured for."""
    wanted = {name: "vit_nano" if "TAB" in name else "dataset" for name in answers}
    wanted |= {"import torch": "", "train.py, to the first step": "first step", "inference.py task=list": "digits"}
    for name, word in wanted.items():
        assert word in answers[name], f"{name}: {answers[name]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("settings", nargs="*", help="overrides for the run whose first step is timed")
    arguments = parser.parse_args()
    print(f"`python benchmarks/start_speed.py {' '.join(sys.argv[1:])}`, {datetime.now():%Y-%m-%d}", end=", ")
    print(f"torch {version('torch')}, hydra {version('hydra-core')}, Python {platform.python_version()}", end=", ")
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        commands = list_commands(folder, arguments.settings)
        run([sys.executable, str(ROOT / "train.py"), *SHORT_RUN], folder)  # a run for the table
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        check_answers({name: run(command, folder)[1] for name, command in commands.items()})
        for _ in range(arguments.rounds):
            for name, command in commands.items():
                seconds[name].append(run(command, folder)[0])
    print("| command | seconds | compared with | difference |\n|---|---|---|---|")
    for name, values in seconds.items():
        other = COMPARED.get(name, "")
        pairs = zip(values, seconds.get(other, []), strict=False)
        difference = f"{statistics.median(mine - bare for mine, bare in pairs):+.2f}" if other else ""
        print(f"| {name} | {statistics.median(values):.2f} | {other} | {difference} |")


if __name__ == "__main__":
    main()
