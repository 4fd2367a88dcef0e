"""What the pictures of a run promise: claims about the figure before it is saved, or its pixels after."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text

from src.plots import curves, letters, matrix, model, style
from src.plots import images as pictures

RNG = np.random.default_rng(0)
ODD_NAMES = ["É_è", "$x$ costs 5$", "猫", "100%", "a\nb", "\udcff", "{\\frac", ""]
RANDOM = RNG.random((4, 2, 2))
PICTURES = {
    "curves": lambda path: curves.plot_curves(metrics(3), path),
    "confusion_matrix": lambda path: matrix.plot_confusion_matrix(np.eye(3, dtype=int), list("abc"), path),
    "predictions": lambda path: pictures.plot_predictions(images(2), ["a", "b"], ["a", "c"], [0.9, 0.4], path),
    "samples": lambda path: pictures.plot_samples([*images(2), *images(1, 20)], ["a", "b", "c"], path),
    "attention": lambda path: pictures.plot_attention(
        images(2), RNG.random((2, 1, 4, 4)), ["layer 1"], [("a", "a"), ("a", "b")], path
    ),
    "position_embeddings": lambda path: model.plot_position_embeddings(RANDOM, RANDOM[0], path),
    "patch_filters": lambda path: model.plot_patch_filters(RNG.normal(size=(5, 2, 2, 1)), path),
}  # fmt: skip


def metrics(num_epochs: int) -> dict[str, list[float]]:
    rising = np.linspace(0.2, 0.9, num_epochs).tolist()
    falling = np.linspace(2, 0.1, num_epochs).tolist()
    epochs = [float(epoch) for epoch in range(1, num_epochs + 1)]
    names = ("train_loss", "train_acc", "val_loss", "val_acc")
    columns = dict(zip(names, (falling, rising, falling, rising), strict=True))
    return {"epoch": epochs, "lr": [0.001] * num_epochs, **columns, "val_f1": rising}


def images(n: int, size: int = 8, channels: int = 1) -> np.ndarray:
    return RNG.integers(0, 256, (n, size, size, channels), dtype=np.uint8)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def labeled(figure: Figure, label: str) -> np.ndarray:
    (line,) = (line for axes in figure.axes for line in axes.lines if line.get_label() == label)
    return np.array(line.get_xydata())


def pixels(axes: Axes, index: int = 0) -> np.ndarray:
    return np.asarray(axes.images[index].get_array(), dtype=float)


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_the_only_file_it_leaves(name: str, tmp_path: Path) -> None:
    for _ in range(2):  # the second one replaces the first
        PICTURES[name](tmp_path / f"{name}.png")
    assert [file.name for file in tmp_path.iterdir()] == [f"{name}.png"]
    picture = imread(tmp_path / f"{name}.png")
    assert (picture[[0, -1]] == 1).all(), "the page is white to its edges"
    assert (picture[..., :3] < 0.9).any(), "and something is drawn on it"


def test_an_interrupted_drawing_keeps_the_old_picture_and_leaves_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half_write(figure: Figure, path: Path, **_: object) -> None:
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    PICTURES["curves"](tmp_path / "curves.png")
    before = (tmp_path / "curves.png").read_bytes()
    monkeypatch.setattr(Figure, "savefig", half_write)
    with pytest.raises(KeyboardInterrupt):
        PICTURES["curves"](tmp_path / "curves.png")
    assert [file.name for file in tmp_path.iterdir()] == ["curves.png"]
    assert (tmp_path / "curves.png").read_bytes() == before


def test_pyplot_torch_and_a_display_are_not_needed(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from src.plots.curves import plot_curves;"
        f"plot_curves({{'epoch': [1], 'val_acc': [0.5]}}, Path({str(tmp_path / 'curves.png')!r}));"
        "assert not {'matplotlib.pyplot', 'torch'} & set(sys.modules)"
    )
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=root, env={"MPLBACKEND": "agg"})


def test_threads_draw_what_one_thread_draws_and_rcparams_stay(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    for name in ("curves", "confusion_matrix"):
        PICTURES[name](tmp_path / "alone.png")
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(PICTURES[name], [tmp_path / f"{i}.png" for i in range(6)]))
        drawn = [(tmp_path / f"{i}.png").read_bytes() for i in range(6)]
        assert drawn == [(tmp_path / "alone.png").read_bytes()] * 6
    assert dict(matplotlib.rcParams) == before


def test_curves_ring_the_best_validation_epoch_and_of_equal_ones_that_of_the_lowest_loss() -> None:
    columns = metrics(5) | {"val_acc": [0.1, 0.7, float("nan"), 0.7, 0.6], "epoch": [11, 12, 13, 14, 15]}
    for losses, epoch in (([5.0, 1.0, 0.0, 2.0, 3.0], 12), ([5.0, 2.0, 0.0, 1.0, 3.0], 14)):
        figure = curves._draw_curves(columns | {"val_loss": losses})
        np.testing.assert_allclose(labeled(figure, "best"), [[epoch, 70]])
        assert f"best 70.00 %, epoch {epoch}" in texts(figure)


def test_curves_of_averaged_weights_have_their_own_line_and_may_hold_the_best() -> None:
    columns = metrics(3)
    figure = curves._draw_curves(columns | {"ema_val_acc": [0.1, 0.95, 0.2], "ema_val_loss": [3.0, 2.0, 1.0]})
    np.testing.assert_allclose(labeled(figure, "ema_acc"), [[1, 10], [2, 95], [3, 20]])
    np.testing.assert_allclose(labeled(figure, "ema_loss"), [[1, 3], [2, 2], [3, 1]])
    np.testing.assert_allclose(labeled(figure, "best"), [[2, 95]])
    figure = curves._draw_curves(columns | {"ema_val_acc": [0.1, 0.5, 0.2], "ema_val_loss": [3.0, 2.0, 1.0]})
    np.testing.assert_allclose(labeled(figure, "best"), [[3, 90]])
    assert "━ ema" not in texts(curves._draw_curves(columns)) and "━ ema" in texts(figure)


def test_curves_show_accuracy_in_per_cent_and_take_the_power_out_of_the_learning_rate() -> None:
    figure = curves._draw_curves(metrics(3))
    np.testing.assert_allclose(labeled(figure, "train_acc")[:, 1], [20, 55, 90])
    np.testing.assert_allclose(labeled(figure, "lr")[:, 1], [1, 1, 1])
    assert "Learning rate (×10⁻³)" in texts(figure)


@pytest.mark.parametrize(("num_epochs", "marker"), [(1, "o"), (3, "o"), (300, "")])
def test_few_epochs_are_dots_and_many_are_a_line(num_epochs: int, marker: str) -> None:
    figure = curves._draw_curves(metrics(num_epochs))
    lines = [line for axes in figure.axes for line in axes.lines if str(line.get_label()).startswith("train")]
    assert [line.get_marker() for line in lines] == [marker] * 2


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), 1e300])
@pytest.mark.parametrize("everywhere", [False, True])
def test_curves_of_a_diverged_run_are_drawn_with_gaps(bad: float, everywhere: bool, tmp_path: Path) -> None:
    columns = metrics(4)
    for name in ("train_loss", "val_loss", "val_acc", "lr"):
        columns[name] = [bad] * 4 if everywhere else [*columns[name][:3], bad]
    curves.plot_curves(columns, tmp_path / "curves.png")
    figure = curves._draw_curves(columns)
    assert np.isnan(labeled(figure, "val_loss")[:, 1]).tolist() == [everywhere] * 3 + [True]
    assert np.isfinite([axes.get_ylim() for axes in figure.axes]).all()
    assert any(text.startswith("best") for text in texts(figure)) is not everywhere


def test_curves_need_no_column_but_the_epoch(tmp_path: Path) -> None:
    curves.plot_curves({"epoch": []}, tmp_path / "none.png")
    curves.plot_curves({"epoch": [1.0, 2.0], "train_loss": [2.0, 1.0]}, tmp_path / "loss.png")
    figure = curves._draw_curves({"epoch": [1.0, 2.0], "train_loss": [2.0]})
    assert labeled(figure, "train_loss").tolist() == [[1, 2]]


def test_a_confusion_matrix_says_all_counts_but_the_zeros_off_its_diagonal() -> None:
    figure = matrix._draw_confusion_matrix(np.array([[7, 1, 0], [0, 0, 0], [0, 12, 345]]), ["a", "b", "c"])
    counts = {text.get_position(): text.get_text() for text in figure.axes[0].texts}
    assert counts == {(0, 0): "7", (1, 0): "1", (1, 1): "0", (1, 2): "12", (2, 2): "345"}
    assert "96.44 % of 365 correct" in texts(figure)


def test_a_confusion_matrix_is_colored_by_the_share_of_the_row_and_a_row_without_images_is_zero() -> None:
    figure = matrix._draw_confusion_matrix(np.array([[3, 1], [0, 0]]), ["a", "b"])
    assert pixels(figure.axes[0]).tolist() == [[0.75, 0.25], [0, 0]]


def test_a_confusion_matrix_grows_with_its_classes_until_not_all_can_be_named(tmp_path: Path) -> None:
    sides = []
    for num in (1, 2, 10, 37, 100, 150, 300):
        figure = matrix._draw_confusion_matrix(np.eye(num, dtype=int), [f"class_{i}" for i in range(num)])
        sides.append(figure.get_figwidth())
    assert sides[:6] == sorted(set(sides[:6]))
    assert sides[5] == sides[6]
    heights = []
    for num in (2, 37):
        matrix.plot_confusion_matrix(np.eye(num, dtype=int), ["a"] * num, tmp_path / "matrix.png")
        heights.append(imread(tmp_path / "matrix.png").shape[0])
    assert heights[1] > 3 * heights[0]


@pytest.mark.parametrize("num", [2, 10, 20, 37, 100, 1000])
def test_class_names_and_counts_do_not_overlap(num: int) -> None:
    confusion = np.full((num, num), 12345)
    figure = matrix._draw_confusion_matrix(confusion, [f"{i} A_LONG_CLASS_NAME" for i in range(num)])
    renderer = FigureCanvasAgg(figure).get_renderer()
    axes = figure.axes[0]
    across, down = ([label.get_window_extent(renderer) for label in labels]
                    for labels in (axes.get_xticklabels(), axes.get_yticklabels()))  # fmt: skip
    assert len(across) == len(down) >= min(num, 100)
    assert all(left.x1 <= right.x0 for left, right in zip(across, across[1:], strict=False))
    assert all(upper.y0 >= lower.y1 for upper, lower in zip(down, down[1:], strict=False))
    assert min(label.height for label in down) >= 6 / 72 * figure.dpi, "readable: at least 6 points"
    cell = axes.get_window_extent(renderer).width / num
    assert all(text.get_window_extent(renderer).width < cell for text in axes.texts)
    assert bool(axes.texts) is (num <= matrix.COUNTED_CLASSES)


def test_names_that_look_alike_once_cut_are_told_apart_by_their_index() -> None:
    names = ["a very long name that goes on: one", "a very long name that goes on: two", "猫", "犬"]
    figure = matrix._draw_confusion_matrix(np.eye(4, dtype=int), names)
    shown = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(set(shown)) == 4
    assert shown[0].startswith("0 a very long name") and shown[0].endswith("…")


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_class_name_is_drawn_as_it_is_spelled_and_without_a_warning(name: str, tmp_path: Path) -> None:
    classes = [name, "other"]
    matrix.plot_confusion_matrix(np.eye(2, dtype=int), classes, tmp_path / "matrix.png")
    pictures.plot_predictions(images(2), classes, classes[::-1], [1, 0.5], tmp_path / "predictions.png")
    outcomes = [(name, name)]
    pictures.plot_attention(images(1), np.ones((1, 1, 2, 2)), [name], outcomes, tmp_path / "attention.png")
    figure = matrix._draw_confusion_matrix(np.eye(2, dtype=int), classes)
    label = figure.axes[0].get_yticklabels()[0]
    assert label.get_parse_math() is False
    drawable = letters._fonts()[1]
    expected = "".join(letter if ord(letter) in drawable else "□" for letter in name.replace("\n", " "))
    assert label.get_text() == expected


@pytest.mark.parametrize("name", ["tabby cat" * 9, "M" * 50, "i" * 90, "_" * 50, "猫" * 50])
def test_a_long_name_is_cut_to_what_fits_but_not_shorter(name: str) -> None:
    figure = Figure(dpi=100)
    text = figure.text(0, 0, letters.label(name, 8), **letters.text(72))
    width = text.get_window_extent(FigureCanvasAgg(figure).get_renderer()).width / 100  # 1 em is 1 inch
    assert 6.5 < width < 8.1
    assert text.get_text().endswith("…")


def test_a_name_that_fits_is_not_cut_and_its_accents_are_composed() -> None:
    assert letters.label("tabby_cat", 5.2) == "tabby_cat"
    assert letters.label("tabby_cat", 4.8) != "tabby_cat"
    assert letters.label("tabby cat", 4.4) == "tabby…", "no space before the ellipsis"
    assert letters.label("E\u0301", 9) == "É"


def test_predictions_say_right_or_wrong_by_color_and_by_sign() -> None:
    figure = pictures._draw_predictions(images(2), ["cat", "dog"], ["cat", "horse"], [0.984, 0.4])
    shown = [[text.get_text() for text in axes.texts] for axes in figure.axes]
    assert shown == [["✓ cat (98 %)", "true: cat"], ["✗ horse (40 %)", "true: dog"]]
    colors = [{to_hex(axes.spines["top"].get_edgecolor()), axes.texts[0].get_color()} for axes in figure.axes]
    assert colors == [{style.RIGHT}, {style.WRONG}]


def test_samples_keep_their_shape_and_stand_on_their_captions() -> None:
    wide, tall = (RNG.integers(0, 256, shape, dtype=np.uint8) for shape in ((20, 80, 3), (80, 20, 3)))
    figure = pictures._draw_samples([wide, tall], ["M" * 40, "tall"])
    FigureCanvasAgg(figure).draw()
    boxes = [axes.get_position() for axes in figure.axes]
    sides = [figure.get_size_inches() * (box.width, box.height) for box in boxes]
    assert [width / height for width, height in sides] == pytest.approx([4, 1 / 4])
    assert boxes[0].y0 == pytest.approx(boxes[1].y0)
    (long,), (short,) = (axes.texts for axes in figure.axes)
    assert short.get_text() == "tall" and long.get_text().endswith("M…")
    assert long.get_window_extent().width < 1.81 * figure.dpi


@pytest.mark.parametrize(("n", "rows"), [(1, 1), (8, 1), (9, 2), (32, 4)])
def test_every_prediction_has_its_image_and_no_label_leaves_its_cell(n: int, rows: int) -> None:
    figure = pictures._draw_predictions(images(n), ["M" * 40] * n, ["w" * 40] * n, [1.0] * n)
    drawn = [axes for axes in figure.axes if axes.images]
    assert len(drawn) == n
    assert len({round(axes.get_position().y0, 6) for axes in drawn}) == rows
    renderer = FigureCanvasAgg(figure).get_renderer()
    step = 1.81 * figure.dpi
    assert max(text.get_window_extent(renderer).width for axes in drawn for text in axes.texts) < step


@pytest.mark.parametrize(("size", "interpolation"), [(8, "nearest"), (32, "nearest"), (224, "antialiased")])
def test_small_images_keep_their_pixels(size: int, interpolation: str) -> None:
    figure = pictures._draw_predictions(images(1, size), ["a"], ["a"], [1.0])
    assert figure.axes[0].images[0].get_interpolation() == interpolation
    assert figure.axes[0].get_window_extent().width >= 200, "pixels, of an image of whatever size"


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 13])
def test_images_of_any_number_of_channels_become_pictures(channels: int) -> None:
    image = images(1, channels=channels)[0]
    mean = image.mean(axis=-1, keepdims=True).astype(np.uint8)
    expected = image[..., :3] if channels >= 3 else np.broadcast_to(mean, (8, 8, 3))
    np.testing.assert_array_equal(pictures._as_picture(image), expected)


def test_attention_maps_have_one_scale_from_uniform_attention_to_the_greatest() -> None:
    maps = np.array([[[[0.5, 1.0], [4.0, 16.0]], [[0.97, 1.03], [1, 1]], [[np.nan, np.inf], [0, 2]]]])
    figure = pictures._draw_attention(images(1, 32, 3), maps, ["layer 1", "layer 2", "layer 3"], [("cat", "dog")])
    tiles, (bar,) = figure.axes, figure.axes[-1].child_axes
    assert [axes.get_title() for axes in tiles] == ["image", "layer 1", "layer 2", "layer 3"]
    heats = np.array([pixels(axes, 1) for axes in tiles[1:]])
    near_uniform = np.log(1.03) / np.log(16)
    expected = np.array([[[0, 0], [0.5, 1]], [[0, near_uniform], [0, 0]], [[0, 0], [0, 0.25]]])
    np.testing.assert_allclose(heats, expected, atol=1e-12)
    captions = [axes.texts[0].get_text() for axes in tiles[1:]]
    assert captions == ["0.50 to 16.00", "0.97 to 1.03", "0.00 to 2.00"]
    assert bar.get_ylabel() == "× uniform" and bar.get_ylim() == pytest.approx((1, 16))
    assert all(axes.images[1].get_extent() == axes.images[0].get_extent() for axes in tiles[1:])


@pytest.mark.parametrize(
    ("size", "kept"),
    [(1, [0]), (4, [0, 1, 2, 3]), (8, range(8)), (14, range(0, 14, 2)), (28, range(1, 28, 4))],
)
def test_at_most_eight_evenly_spaced_maps_are_shown_per_side(size: int, kept: list[int]) -> None:
    assert model._spread(size).tolist() == list(kept)


def test_the_similarity_map_of_a_patch_stands_where_the_patch_is() -> None:
    rows, columns = 3, 20
    similarity = np.eye(rows * columns).reshape(-1, rows, columns)
    figure = model._draw_position_embeddings(similarity, np.ones((rows, columns)))
    axes = figure.axes[0]
    mosaic = pixels(axes)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "4", "7", "10", "13", "16", "19"]
    height, width = (mosaic.shape[0] + model.GAP) // rows, (mosaic.shape[1] + model.GAP) // 7
    for row, index in np.ndindex(rows, 7):
        tile = mosaic[row * height :, index * width :][: 3 * rows, : 3 * columns]  # a patch is 3 x 3 pixels
        assert np.argwhere(tile[1::3, 1::3] == 1).tolist() == [[row, 3 * index]]


def test_rounding_errors_of_equal_norms_stay_invisible() -> None:
    norms = 1 + np.array([[0, 1e-7], [2e-7, 0]])
    figure = model._draw_position_embeddings(np.ones((4, 2, 2)), norms)
    (norm_map,) = (axes for axes in figure.axes[0].child_axes if axes.get_xlabel() == "patch column")
    low, high = norm_map.images[0].get_clim()
    assert low is not None and high is not None and high - low > 0.009


def test_position_embeddings_of_a_diverged_run_are_drawn(tmp_path: Path) -> None:
    nothing = np.full((4, 2, 2), np.nan)
    model.plot_position_embeddings(nothing, nothing[0], tmp_path / "nan.png")
    assert imread(tmp_path / "nan.png").ndim == 3


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_a_filter_is_scaled_by_its_greatest_weight_around_grey(channels: int) -> None:
    filters = np.zeros((3, 2, 2, channels), dtype=np.float32)
    filters[0, 0, 1], filters[0, 1, 0] = 0.2, -0.1
    filters[1] = np.nan
    mosaic = pixels(model._draw_patch_filters(filters).axes[0])
    side = (mosaic.shape[0] - model.GAP) // 2
    corners = mosaic[: side + 1 : side - 1, : side + 1 : side - 1].mean(axis=-1)
    np.testing.assert_allclose(corners, [[0.5, 1], [0.25, 0.5]])
    np.testing.assert_allclose(mosaic[:side, -side:], 0.5)
    np.testing.assert_allclose(mosaic[-side:, -side:], 1)  # the fourth place is empty
