"""The house: who imports whom, and what starts quickly."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from src.config.compose import CONFIGS

ROOT = Path(__file__).resolve().parents[1]
LAYERS = {
    0: {"model", "augment", "metrics", "distributed", "seeding", "signals", "config", "machine"},
    1: {"data", "optim", "plots", "terminal", "tables", "trackers"},
    2: {"engine", "run", "pretrained"},
    3: {"predict", "evaluate", "sweep", "compare", "export", "build", "initialize"},
    4: {"start", "web"},
}
FLOOR = {module: floor for floor, modules in LAYERS.items() for module in modules}
ONNX = {"onnx", "onnxruntime", "onnxscript"}
# What these may import besides the standard library and the rooms below them.
LIBRARIES = {
    "model": {"torch"},
    "augment": {"torch"},
    "metrics": {"torch"},
    "seeding": {"torch"},
    "distributed": {"torch"},
    "signals": set(),
    "machine": {"torch"},
    "config": {"hydra", "omegaconf", "yaml"},
    "plots": {"matplotlib", "numpy"},
    "terminal": {"rich"},
    "tables": set(),
    "trackers": {"torch"},
    "start": {"hydra", "omegaconf", "yaml"},
    "export": {"torch", "numpy", "PIL", "safetensors", "timm", "transformers", "yaml", *ONNX},
    "web": {"fastapi", "starlette", "uvicorn", "jinja2", "python_multipart", "numpy", "PIL"},
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


def test_the_picture_shows_each_room_and_is_not_empty() -> None:
    assert {module_of(path) for path in SOURCES} == set(FLOOR)
    assert imports(ROOT / "src/engine/trainer.py") >= {".data", ".augment", ".distributed", "torch"}
    assert imports(ROOT / "src/evaluate.py") >= {".run", ".plots", ".metrics"}


def test_hydras_private_parts_and_its_command_line_are_known_to_start_alone() -> None:
    users = {
        module_of(path)
        for path in SOURCES
        if re.search(r"hydra\._internal|hydra\.main|sys\.argv\s*=", path.read_text())
    }
    assert users == {"start"}
    composing = {module_of(path) for path in SOURCES if re.search(r"OmegaConf\.|hydra\.compose", path.read_text())}
    assert composing <= {"config", "start"}


def test_the_first_floor_and_packages_re_export_nothing() -> None:
    """Callers import from modules, so that a name stands in one place."""
    for path in SOURCES:
        assert "__all__" not in path.read_text(), path
        if path.name == "__init__.py":
            assert not imports(path), path


def test_torchruns_environment_is_read_in_one_place() -> None:
    names = re.compile(r"WORLD_SIZE|LOCAL_RANK|\"RANK\"|TORCHELASTIC")
    readers = [path.name for path in SOURCES if "environ" in path.read_text() and names.search(path.read_text())]
    assert readers == ["torchrun.py"]


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
    assert "dataset: caltech101, cifar10, cifar100, csv, digits" in help_text and "model.num_layers=9" in help_text
    result = subprocess.run(
        [sys.executable, "train.py", "-sc", "query=bash"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "COMP_LINE": "python train.py model=vit_t", "COMP_POINT": "27"},
    )
    assert result.stdout.split() == ["model=vit_tiny"]
