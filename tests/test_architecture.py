"""The house: who imports whom, what starts quickly, and that the README's commands are real."""

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import compose

from src.config import TrainConfig, dump_config, launch
from src.config.compose import CONFIGS
from train import find_run

ROOT = Path(__file__).resolve().parents[1]
LAYERS = {
    0: {"model", "augment", "metrics", "distributed", "seeding", "signals", "config"},
    1: {"data", "optim", "plots", "terminal"},
    2: {"engine", "run", "pretrained"},
    3: {"predict", "evaluate", "sweep", "compare"},
}
FLOOR = {module: floor for floor, modules in LAYERS.items() for module in modules}
# What these may import beside the standard library and the modules below them.
LIBRARIES = {
    "model": {"torch"},
    "augment": {"torch"},
    "metrics": {"torch"},
    "seeding": {"torch"},
    "distributed": {"torch"},
    "signals": set(),
    "config": {"hydra", "omegaconf", "yaml"},
    "plots": {"matplotlib", "numpy"},
    "terminal": {"rich"},
}


def imports(path: Path) -> set[str]:
    """Return what a file imports, inside functions too: names of libraries, and of ours with a dot in front."""
    found = set()
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            parts = [*base, *(node.module or "").split(".")] if node.module else list(base)
            names = [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
            found |= {f".{name}" for name in names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def module_of(path: Path) -> str:
    return path.relative_to(ROOT / "src").parts[0].removesuffix(".py")


SOURCES = [path for path in sorted((ROOT / "src").rglob("*.py")) if path != ROOT / "src" / "__init__.py"]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_only_go_down(path: Path) -> None:
    module = module_of(path)
    for name in imports(path):
        if name.startswith("."):
            other = name[1:]
            allowed = other == module or FLOOR[other] < FLOOR[module]
            assert allowed, f"{path.name} (floor {FLOOR[module]}) imports {other} (floor {FLOOR[other]})"
        elif module in LIBRARIES:
            assert name in LIBRARIES[module] | set(sys.stdlib_module_names), f"{path.name} imports {name}"


def test_the_picture_of_imports_is_not_empty() -> None:
    assert imports(ROOT / "src/engine/trainer.py") >= {".data", ".augment", ".distributed", "torch"}
    assert imports(ROOT / "src/evaluate.py") >= {".run", ".plots", ".metrics"}


def test_nothing_in_src_ends_the_process_or_instantiates_from_a_config() -> None:
    for path in SOURCES:
        text = path.read_text()
        assert "sys.exit" not in text and "instantiate(" not in text, path
    for path in CONFIGS.rglob("*.yaml"):
        assert "_target_" not in path.read_text(), path


def test_a_typo_is_answered_without_the_heavy_libraries() -> None:
    code = (
        "import runpy, sys\n"
        "sys.argv = ['train.py', 'model.depth=3']\n"
        "try: runpy.run_path('train.py', run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 1\n"
        "print(*{name.split('.')[0] for name in sys.modules} & "
        "{'torch', 'torchvision', 'pandas', 'sklearn', 'matplotlib', 'numpy', 'rich', 'kagglehub'})"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "" and "Did you mean model.num_layers?" in result.stderr


def test_help_and_completion_name_the_groups() -> None:
    help_text = subprocess.run([sys.executable, "train.py", "--help"], cwd=ROOT, capture_output=True, text=True).stdout
    assert "dataset: caltech101, cifar10, cifar100, csv, digits" in help_text and "num_layers: 4" in help_text
    result = subprocess.run(
        [sys.executable, "train.py", "-sc", "query=bash"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "COMP_LINE": "python train.py model=vit_t", "COMP_POINT": "27"},
    )
    assert result.stdout.split() == ["model=vit_tiny"]


def readme_commands() -> list[str]:
    """Return the lines of the README's shell blocks that start train.py or inference.py."""
    blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if re.match(r"python (train|inference)\.py", line)]


SWEEPS = [command for command in readme_commands() if "--multirun" in command]


@pytest.mark.parametrize("command", [command for command in readme_commands() if command not in SWEEPS])
def test_every_command_of_the_readme_is_accepted(command: str, tmp_path: Path) -> None:
    """Composed and checked as typed, from a folder that holds what the README says there is."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "labels.csv").touch()
    run = tmp_path / "outputs/2026-01-31/12-00-00"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text(dump_config(compose()))
    (run / "status.json").write_text('{"status": "stopped"}')
    (run / "checkpoints/best.safetensors").touch()
    words = shlex.split(command)
    arguments = words[2:]
    if "--help" in arguments:
        return
    result = subprocess.run(
        [sys.executable, ROOT / words[1], "--cfg", "job", *(re.sub(r",.*", "", word) for word in arguments)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("command", SWEEPS)
def test_every_sweep_of_the_readme_is_accepted(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planned, checked and carried out as typed, by a main that trains nothing, in one process."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments.txt").write_text("model.num_layers=2\nmodel.num_layers=3\n")
    monkeypatch.setattr("src.plots.plot_sweep", lambda *arguments: None)
    calls: list[TrainConfig] = []

    def sweep(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["train.py", "--multirun", *words])
        return launch(lambda config, job: calls.append(config), "config", TrainConfig, find_run)

    words = [word for word in shlex.split(command)[2:] if word != "--multirun"]
    if words[0].startswith("resume="):
        assert sweep("seed=0,1") == 0
    for launcher in [word for word in words if word.startswith("hydra/launcher=")]:
        plugin = yaml.safe_load((CONFIGS / "hydra/launcher" / f"{launcher.split('=')[1]}.yaml").read_text())
        assert plugin["defaults"]
        words.remove(launcher)
    # What starts processes of its own is parsed and checked, then taken back.
    assert sweep(*words, "sweep.isolate=false", "sweep.gpus=null", "sweep.trials=2") == 0 and calls
