"""README.md, CONTRIBUTING.md and docs/: their commands are accepted, their links lead somewhere, their code is real."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from helpers import compose
from published import save_timm

from src.config.compose import CONFIGS, dump_config
from src.config.inference import InferenceConfig
from src.config.schema import TrainConfig
from src.distributed.torchrun import Place
from src.start.command import Command, parse_command

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def list_commands() -> list[str]:
    """Return the lines of all shell blocks that start train.py or inference.py, each once."""
    blocks = [block for page in PAGES for block in re.findall(r"```bash\n(.*?)```", page.read_text(), flags=re.DOTALL)]
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    started = [re.sub(r"^torchrun \S+ ", "python ", line) for line in lines]
    return list(dict.fromkeys(line for line in started if re.match(r"python (train|inference)\.py", line)))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that holds what the pages say there is."""
    for name in ("photos/cat", "photos/dog", "cifar10/cat"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "labels.csv").touch()
    (tmp_path / "experiments.txt").write_text("model.num_layers=2\nmodel.num_layers=3\n")
    (tmp_path / "benchmarks").mkdir()
    shutil.copy(ROOT / "benchmarks/levers.txt", tmp_path / "benchmarks")
    run = tmp_path / "outputs/2026-01-31/12-00-00"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text(dump_config(compose()))
    (run / "status.json").write_text('{"status": "stopped"}')
    (run / "checkpoints/best.safetensors").touch()
    shutil.copytree(ROOT / "tests/saved/multirun/sweep", tmp_path / "multirun/2026-01-31/13-00-00")
    save_timm(tmp_path / "vit_small")
    save_timm(tmp_path / "vit_s14", patch_size=14)
    shutil.copy(tmp_path / "vit_small" / "model.safetensors", tmp_path / "vit.safetensors")
    for module in ("hub", "published"):  # nothing is downloaded
        monkeypatch.setattr(f"src.pretrained.{module}.fetch_model", lambda wanted: tmp_path / "vit_small")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def parse(command: str) -> Command:
    """Compose and check every job of a command, as starting it does first."""
    script, *words = shlex.split(command.replace("/data/imagenet", "photos"))[1:]
    for launcher in [word for word in words if word.startswith("hydra/launcher=")]:
        # Its library need not be installed here.
        plugin = yaml.safe_load((CONFIGS / "hydra/launcher" / f"{launcher.split('=')[1]}.yaml").read_text())
        assert plugin["defaults"]
        words.remove(launcher)
    name, schema = ("config", TrainConfig) if script == "train.py" else ("inference", InferenceConfig)
    return parse_command([script, *words], name, schema, Place())


@pytest.mark.parametrize("command", list_commands())
def test_every_command_of_the_pages_is_accepted(command: str, folder: Path) -> None:
    parsed = parse(command)
    if "--multirun" in command and "train.py" in command:
        assert parsed.sweep is not None and (parsed.sweep.plan.jobs or parsed.sweep.plan.space)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("python train.py model.depth=3", "Could not override 'model.depth'"),
        ("python train.py --multirun seed=0,x", "Error merging override seed=x"),
        ("python inference.py k=3", "Could not override 'k'"),
        ("python inference.py task=export formats=timm,hf", r"formats=timm,hf gives several values: type \[a,b\] for"),
    ],
)
def test_a_command_that_is_wrong_is_noticed(command: str, message: str, folder: Path) -> None:
    with pytest.raises(Exception, match=message):
        parse(command)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), flags=re.MULTILINE)
            assert anchor in [make_anchor(heading) for heading in headings], f"{page.name}: {target}"


def make_anchor(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_the_excerpts_of_the_model_are_its_code() -> None:
    model = (ROOT / "src/model.py").read_text()
    excerpts = re.findall(r"```python\n(.*?)```", (ROOT / "docs/vit.md").read_text(), flags=re.DOTALL)
    assert excerpts and all(excerpt.rstrip() in model for excerpt in excerpts)


def test_the_rooms_of_the_drawing_are_those_of_the_code() -> None:
    from test_architecture import LAYERS

    block = re.search(r"```\nL5.*?```", (ROOT / "docs/architecture.md").read_text(), flags=re.DOTALL)
    assert block is not None
    drawn = {int(line[1]): {name.strip("/") for name in line[2:].split()} for line in block[0].splitlines()[1:-1]}
    assert {floor: rooms for floor, rooms in drawn.items() if floor < 5} == LAYERS
