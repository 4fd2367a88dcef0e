"""The model object and a run's three lines in other people's programs: copied, pickled, compiled, exported, halved."""

import copy
import io
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import COLORS, make_picture
from PIL import Image
from test_model import NOT_IN_TIMM, OPTIONS, build, draw_images, randomize
from torch import Tensor

from src.model import VisionTransformer
from src.predict.load import load_model
from src.predict.predictor import Predictor
from src.run.saved import SavedRun

ROOT = Path(__file__).resolve().parents[1]
VARIANTS: dict[str, dict[str, Any]] = OPTIONS | NOT_IN_TIMM | {"dropout": {"dropout": 0.1, "drop_path": 0.1}}
FLAGS: dict[str, Callable[[VisionTransformer], None]] = {  # what is set after construction
    "whole_attention": lambda model: model.fuse_attention(False),
    "gradient_checkpointing": lambda model: setattr(model, "gradient_checkpointing", True),
    "patch_dropout": lambda model: setattr(model, "patch_dropout", 0.5),
}
ALL = [*VARIANTS, *FLAGS]
CAPTURED = ["everything", "sincos2d", "conv_stem", *FLAGS]  # for what takes a second each: the ways through the code


def make(name: str) -> VisionTransformer:
    """Build a variant in evaluation mode, with weights that no part can ignore unnoticed."""
    model = build(**{"num_layers": 1} | VARIANTS.get(name, {}))
    randomize(model)
    FLAGS.get(name, lambda model: None)(model)
    return model.eval()


@torch.no_grad()
def check_equal(other: Callable[[Tensor], Tensor], model: VisionTransformer, atol: float = 0.0) -> None:
    images = draw_images(model)
    torch.testing.assert_close(other(images).float(), model(images), atol=atol, rtol=0)


@pytest.mark.parametrize("name", ALL)
def test_copies_and_pickles_are_models_of_their_own_with_equal_logits(name: str) -> None:
    model = make(name)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        check_equal(twin, model)
        assert vars(twin).keys() == vars(model).keys() and twin.patch_dropout == model.patch_dropout
        assert not {p.data_ptr() for p in twin.parameters()} & {p.data_ptr() for p in model.parameters()}


def test_a_copy_of_a_trained_and_resized_model_still_trains() -> None:
    model = make("sincos2d").train()
    model(draw_images(model)).sum().backward()
    model.set_image_size(24)
    twin = copy.deepcopy(model)
    twin(draw_images(twin)).sum().backward()
    assert all(p.grad is not None for p in twin.parameters())
    assert "pos_embed" not in twin.state_dict()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(("dtype", "atol"), [(torch.bfloat16, 0.25), (torch.float16, 0.04), (torch.float64, 1e-4)])
@torch.no_grad()
def test_half_and_double_precision_on_a_cpu_give_nearly_the_same_logits(
    name: str, dtype: torch.dtype, atol: float
) -> None:
    model = make(name)
    images = draw_images(model)
    halved = copy.deepcopy(model).to(dtype)
    assert {tensor.dtype for tensor in (*halved.parameters(), *halved.buffers())} == {dtype}
    logits, exact = halved(images.to(dtype)), model(images)
    assert logits.dtype == dtype and exact.std() > 0.1
    torch.testing.assert_close(logits.float(), exact, atol=atol, rtol=0)
    assert all(weights.dtype == torch.float32 for weights in halved.attention_maps(images.to(dtype)))


@pytest.mark.filterwarnings("ignore:`torch.jit.*is deprecated:FutureWarning")  # since torch 2.11
@pytest.mark.parametrize("name", CAPTURED)
def test_torchscript_gives_the_same_logits_for_any_batch_after_saving(name: str) -> None:
    model, file = make(name), io.BytesIO()
    torch.jit.save(torch.jit.script(model), file)
    file.seek(0)
    scripted = torch.jit.load(file)
    check_equal(scripted, model)
    one = draw_images(model, 1)
    assert torch.equal(scripted(one), model(one))


@pytest.mark.filterwarnings("ignore:`torch.jit.*is deprecated:FutureWarning")
def test_torchscript_refuses_other_sizes_without_the_sentence() -> None:
    """The sentence is Python's: TorchScript cannot format shapes, so the model leaves it out there."""
    with pytest.raises(torch.jit.Error, match="self._refuse"):
        torch.jit.script(make("class_token"))(torch.zeros(1, 3, 20, 20))


@pytest.mark.parametrize("name", CAPTURED[:3])
def test_export_gives_the_same_logits_for_any_number_of_images(name: str) -> None:
    model = make(name)
    batch = torch.export.Dim("batch", min=1, max=1024)
    program = torch.export.export(model, (draw_images(model, 2),), dynamic_shapes=({0: batch},))
    for count in (1, 7):
        images = draw_images(model, count)
        torch.testing.assert_close(program.module()(images), model(images), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["everything", "gradient_checkpointing", "patch_dropout"])
def test_compile_captures_the_whole_model_in_one_graph_for_training_and_use(name: str) -> None:
    torch.compiler.reset()
    model = make(name)
    check_equal(torch.compile(model, backend="eager", fullgraph=True), model)
    trained = torch.compile(model.train(), backend="eager", fullgraph=True)
    trained(draw_images(model)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    torch.compiler.reset()


def test_gradients_of_each_image_can_be_taken_with_torch_func() -> None:
    from torch.func import functional_call, grad, vmap

    model = build(num_layers=1).eval()
    model.fuse_attention(False)  # torch warns that the fused kernel runs image by image there
    images = draw_images(model, 2)
    weights: dict[str, Tensor] = dict(model.named_parameters())

    def sum_logits(weights: dict[str, Tensor], image: Tensor) -> Tensor:
        return functional_call(model, weights, (image.unsqueeze(0),)).sum()

    for_each = vmap(grad(sum_logits), in_dims=(None, 0))(weights, images)
    model(images).sum().backward()
    assert model.head.weight.grad is not None
    torch.testing.assert_close(for_each["head.weight"].sum(0), model.head.weight.grad)


def test_the_head_gets_the_pooled_tokens() -> None:
    for name in ("class_token", "registers_and_mean_pooling"):
        model = make(name)
        images = draw_images(model)
        tokens = model.forward_features(images)
        expected = tokens[:, 0] if name == "class_token" else tokens[:, 3:].mean(1)
        assert torch.equal(model.pool(tokens), expected) and torch.equal(model.head(expected), model(images))


def test_three_lines_give_what_inference_gives(photo_run: SavedRun, tmp_path: Path) -> None:
    model, preprocess, classes = load_model(photo_run.folder)
    predictor = Predictor(photo_run, "cpu")
    make_picture(COLORS["red"], 1, (50, 40)).save(tmp_path / "a.jpg")
    read, expected, _ = next(predictor.predict_files([tmp_path / "a.jpg"], batch_size=1))
    assert not model.training and classes == predictor.classes == sorted(COLORS)
    with torch.no_grad():
        assert torch.equal(model(preprocess(str(tmp_path / "a.jpg"))).softmax(1), expected)
        assert torch.equal(predictor.embed(preprocess.preprocessing.read(read[0])[None]), model.pool(
            model.forward_features(preprocess(read))
        ))  # fmt: skip


def test_a_picture_is_the_same_as_path_pil_image_and_array(photo_run: SavedRun, tmp_path: Path) -> None:
    _, preprocess, _ = load_model(photo_run.folder)
    sideways = make_picture(COLORS["blue"], 2, (50, 30))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    sideways.save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as opened:
        from_path = preprocess(tmp_path / "turned.png")
        assert torch.equal(preprocess(opened), from_path)
        assert torch.equal(preprocess(np.asarray(opened.transpose(Image.Transpose.ROTATE_270))), from_path)
    assert not torch.equal(preprocess(sideways), from_path)
    floats = np.asarray(sideways) / 255
    assert torch.equal(preprocess([floats, sideways]), preprocess([sideways, sideways]))


def test_a_large_jpeg_that_pil_has_opened_is_decoded_as_its_file_is(photo_run: SavedRun, tmp_path: Path) -> None:
    """At an eighth of its size, which gives other pixels than decoding it all."""
    _, preprocess, _ = load_model(photo_run.folder)
    make_picture(COLORS["green"], 3, (400, 300)).save(tmp_path / "large.jpg")
    with Image.open(tmp_path / "large.jpg") as opened:
        assert torch.equal(preprocess(opened), preprocess(tmp_path / "large.jpg"))
        assert opened.size == (400, 300) and np.asarray(opened).shape == (300, 400, 3)
        assert not torch.equal(preprocess(opened), preprocess(tmp_path / "large.jpg"))
    in_memory = Image.open(io.BytesIO((tmp_path / "large.jpg").read_bytes()))
    assert torch.equal(preprocess(in_memory), preprocess(tmp_path / "large.jpg"))


@pytest.mark.parametrize(
    ("picture", "error", "message"),
    [
        ("nowhere.jpg", FileNotFoundError, "nowhere.jpg"),
        ([], ValueError, "the list of pictures is empty"),
        (3, TypeError, "a picture is a path, a PIL image or an array (height, width, channels), not int"),
        (torch.zeros(3, 4, 4), TypeError, "not Tensor"),
        (np.full((4, 4, 3), 200.0), ValueError, "float pixels are from 0 to 1, but these reach 200"),
        (np.zeros((4, 4, 5), np.uint8), ValueError, "5 channels, but dataset.channels is 3"),
        (np.zeros((1, 3, 4, 4), np.uint8), ValueError, "not (1, 3, 4, 4)"),
    ],
)
def test_what_is_no_picture_is_refused_in_words(
    picture: Any, error: type[Exception], message: str, photo_run: SavedRun
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        load_model(photo_run.folder)[1](picture)


def test_a_folder_that_is_no_run_is_answered_as_in_inference(photo_run: SavedRun, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a run: it has no config.yaml"):
        load_model(tmp_path)
    with pytest.raises(FileNotFoundError, match="no runs with weights in"):
        load_model("best", roots=[str(tmp_path)])
    assert load_model("latest", roots=[str(photo_run.folder.parent)])[2] == sorted(COLORS)
    for name in ("config.yaml", "classes.json", "preprocessing.json", "checkpoints/best.safetensors"):
        (tmp_path / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photo_run.folder / name, tmp_path / "copy" / name)
    assert load_model(str(tmp_path / "copy"))[2] == sorted(COLORS)
    (tmp_path / "copy" / "checkpoints" / "best.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="the weights of .* are damaged"):
        load_model(tmp_path / "copy")


def test_a_grey_model_takes_color_images(tmp_path: Path) -> None:
    from src.data.images import Preprocessing
    from src.predict.load import Transform

    grey = Transform(Preprocessing((8, 8), "crop", "bicubic", 1, (0.5,), (0.25,)))
    pixels = grey(make_picture(COLORS["red"], 1))
    assert pixels.shape == (1, 1, 8, 8)
    assert torch.equal(pixels, grey(make_picture(COLORS["red"], 1).convert("L")))


def test_the_repository_works_under_another_name_beside_a_src_of_ones_own(photo_run: SavedRun, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "__init__.py").touch()
    (tmp_path / "vit").symlink_to(ROOT)
    script = (
        f"import src\nfrom vit.src.predict.load import load_model\nprint(load_model({str(photo_run.folder)!r})[2])\n"
    )
    (tmp_path / "my_script.py").write_text(script)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "my_script.py"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert result.stdout == f"{sorted(COLORS)}\n" and not result.stderr


def test_the_code_of_the_page_runs(photo_run: SavedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block of docs/use-elsewhere.md, in one session, as in a notebook."""
    page = (ROOT / "docs/use-elsewhere.md").read_text(encoding="utf-8")
    shutil.copytree(photo_run.folder, tmp_path / "outputs/2026-01-31/12-00-00")
    shutil.copy(ROOT / "src/model.py", tmp_path)
    for name, color in (("cat", "blue"), ("dog", "red")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(3):
            make_picture(COLORS[color], i).save(tmp_path / "photos" / name / f"{i}.jpg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # one block adds a folder
    np.save("features.npy", np.random.default_rng(0).normal(size=(6, 16)).astype(np.float32))
    lines = [f"photos/{i}.jpg,{'cat' if i % 2 else 'dog'},blue,0.5" for i in range(6)]
    Path("features.files.csv").write_text("\n".join(["file,class,predicted,confidence", *lines]) + "\n")
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    for block in blocks:
        exec(compile(block, "docs/use-elsewhere.md", "exec"), names)
    sys.modules.pop("model")
    assert len(blocks) == 8 and names["probe"].classes_.tolist() == ["cat", "dog"]
    assert names["features"].shape == (2, 16) and names["layers"][0].shape == (2, 2, 17, 17)
    assert len(torch.load("weights.pt", weights_only=True)["head.weight"]) == 2, "of the new classes"
    images = names["preprocess"](names["files"])
    check = load_model(photo_run.folder)[0]
    assert torch.equal(names["model"](images), check(images)), "the copied file and the weights alone"
