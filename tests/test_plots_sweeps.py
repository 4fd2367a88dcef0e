"""What the pictures of sweeps, comparisons and searches promise: claims about the figure, or its texts' places."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure, FigureBase
from matplotlib.image import imread
from matplotlib.lines import Line2D
from matplotlib.path import Path as Outline
from matplotlib.text import Text
from matplotlib.transforms import Affine2D, BboxTransformTo

from src.plots import curves, letters, scales, search, style, sweeps

NAN = float("nan")
CROP = "augmentation.random_resized_crop"
LONG = ["cifar10/vit_small_patch4_long_recipe", "imagenette/from_scratch_300_epochs", "$x$ costs 5$", "_猫"]
RNG = np.random.default_rng(0)
RANDOM = {
    "training.lr": (10 ** RNG.uniform(-4, -2, 60)).tolist(),
    CROP: RNG.uniform(0.1, 1, 60).tolist(),
    "dataset": RNG.choice(LONG, 60).tolist(),
    "model.position_embedding_of_the_registers": RNG.choice([True, False], 60).tolist(),
    "model.num_layers": RNG.integers(2, 40, 60).tolist(),
}


def grid(**settings: Any) -> dict[str, list[Any]]:
    """Return every combination, as Hydra's basic sweeper orders them."""
    return dict(zip(settings, map(list, zip(*itertools.product(*settings.values()), strict=True)), strict=True))


def some(*keys: str) -> dict[str, list[Any]]:
    return {key: RANDOM[key] for key in keys}


def jobs(num: int, num_epochs: int = 3, name: str = "job") -> sweeps.Curves:
    """Return curves that end at 0.5, 0.51 … and after 45 of them at 0.5 again."""
    epochs = [float(epoch) for epoch in range(1, num_epochs + 1)]
    return {f"{i} {name}": (epochs, np.linspace(0.1, 0.5 + 0.01 * (i % 45), num_epochs).tolist()) for i in range(num)}


def sweep(settings: dict[str, list[Any]], scores: list[list[float]] | None = None, **more: Any) -> Figure:
    groups = len(next(iter(settings.values()), [0]))
    scores = [[0.5 + 0.4 * i / groups] for i in range(groups)] if scores is None else scores
    best = (more["best"], more.get("best_epoch", 0)) if "best" in more else None
    return sweeps._draw_sweep(settings, scores, more.get("curves", jobs(2)), best)


def metrics(accuracies: list[float], **more: list[float]) -> dict[str, list[float]]:
    epochs = [float(epoch) for epoch in range(1, len(accuracies) + 1)]
    return {"epoch": epochs, "val_acc": accuracies, "val_loss": [1 - a for a in accuracies], **more}


FIGURES = {
    "nothing": lambda: sweep({}, [], curves={}),
    "nothing finished of one": lambda: sweep({"lr": [1e-3, 1e-2]}, [[], []], curves={}),
    "nothing finished of two": lambda: sweep(grid(a=[1, 2], b=["x", "y"]), [[]] * 4, curves={}),
    "nothing finished of two at random": lambda: sweep(some("training.lr", CROP), [[]] * 60, curves={}),
    "nothing finished of three": lambda: sweep(grid(a=[1, 2], b=["x", "y"], c=[True, None]), [[]] * 8, curves={}),
    "settings without groups": lambda: sweep({"lr": [], "b": []}, [], curves={}),
    "one job of one epoch": lambda: sweep({"lr": [1e-3]}, [[0.3]], curves=jobs(1, 1), best="0 job"),
    "repeats": lambda: sweep({}, [[0.9, 0.91, 0.95]], curves=jobs(3), best="2 job"),
    "one of numbers": lambda: sweep({"training.lr": [1e-4, 3e-4, 1e-3]}, curves=jobs(3), best="2 job"),
    "one of long names": lambda: sweep({CROP: LONG}, curves=jobs(4, 5, "dataset=" + "long/" * 30)),
    "one of many names": lambda: sweep({CROP: [f"{name} {i}" for i in range(15) for name in LONG]}),
    "one at random": lambda: sweep(some("training.lr"), curves=jobs(60, 30), best="44 job"),
    "two in a grid": lambda: sweep(grid(**{CROP: LONG, "training.lr": [1e-4, 3e-4, 1e-3, 1e-2, None]})),
    "two in a large grid": lambda: sweep(grid(a=list(range(12)), **{CROP: [f"{LONG[0]}{i}" for i in range(12)]})),
    "two at random": lambda: sweep(some("training.lr", CROP)),
    "two at random, names": lambda: sweep(some("dataset", CROP)),
    "three": lambda: sweep(grid(a=[4, 8], b=LONG, **{CROP: [True, False]}), curves=jobs(8), best="7 job"),
    "five at random": lambda: sweep(RANDOM, curves=jobs(60), best="44 job"),
    "diverged": lambda: sweep(grid(a=[1, 2], b=[1, 2], c=[1, 2]), [[NAN], [0.5]] * 4, curves={"a": ([1], [NAN])}),
    "infinite": lambda: sweep({"a": [1.0, float("inf"), NAN]}, [[NAN], [0.5, float("inf")], []]),
    "comparison": lambda: curves._draw_comparison({name * 5: metrics([0.5, 0.7, 0.6]) for name in LONG}),
    "comparison of short names": lambda: curves._draw_comparison({f"run {i}": metrics([0.5, 0.7]) for i in range(10)}),
    "comparison of nothing": lambda: curves._draw_comparison({"a": {"epoch": []}, "b": {}}),
    "comparison of diverged runs": lambda: curves._draw_comparison({"a": metrics([NAN] * 2), "b": metrics([0.5, NAN])}),
    "search": lambda: search._draw_search_history([0.5, None, 0.7, 0.9, NAN], [False, False, False, True, False]),
    "search of nothing": lambda: search._draw_search_history([], []),
    "search without values": lambda: search._draw_search_history([None, None], [True, False]),
    "importances": lambda: search._draw_importances({CROP: 0.7, "x" * 90: 0.3, "y": NAN}, 5),
    "one importance": lambda: search._draw_importances({"training.lr": 1.0}, 200),
    "no importances": lambda: search._draw_importances({}, 0),
}


def written(figure: Figure) -> list[tuple[str, Outline]]:
    """Return what is to be read on a figure, and where; matplotlib keeps ticks outside of an axis and draws none."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    hidden = set()
    for axes in figure.findobj(Axes):
        for axis, ends in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            places = [*axis.get_majorticklocs(), *axis.get_minorticklocs()]
            labels = [*axis.get_ticklabels(), *axis.get_ticklabels(minor=True)]
            hidden |= {
                id(label) for place, label in zip(places, labels, strict=True) if not min(ends) <= place <= max(ends)
            }
            hidden |= {id(tick.label2) for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())}
    found = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text() and id(text) not in hidden]
    return [(text.get_text(), outline(text, renderer)) for text in found]


def outline(text: Text, renderer: RendererAgg) -> Outline:
    """Return the box of a text, a slanted one too: a pixel less on all sides, as neighbors may touch."""
    angle = text.get_rotation()
    if angle % 90 == 0:
        return Outline.unit_rectangle().transformed(BboxTransformTo(text.get_window_extent(renderer).padded(-0.5)))
    text.set_rotation(0)
    level = Outline.unit_rectangle().transformed(BboxTransformTo(text.get_window_extent(renderer).padded(-0.5)))
    text.set_rotation(angle)
    anchor = text.get_transform().transform(text.get_position())
    return level.transformed(Affine2D().rotate_deg_around(anchor[0], anchor[1], angle))


def texts(figure: FigureBase) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def labeled(axes: Axes, label: str) -> list[Line2D]:
    return [line for line in axes.lines if line.get_label() == label]


def assert_close(actual: Any, expected: Any) -> None:
    np.testing.assert_allclose(actual, expected, atol=1e-9)


def points(line: Line2D) -> list[list[float]]:
    return np.round(np.array(line.get_xydata()), 6).tolist()


def ticks(axes: Axes, side: str = "x") -> list[str]:
    return [label.get_text() for label in (axes.get_xticklabels() if side == "x" else axes.get_yticklabels())]


def entries(axes: Axes) -> list[str]:
    legend = axes.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


@pytest.mark.parametrize("name", FIGURES)
def test_texts_do_not_touch_each_other_and_lie_on_the_page(name: str) -> None:
    figure = FIGURES[name]()
    found = written(figure)
    assert found
    for (one, here), (other, there) in itertools.combinations(found, 2):
        assert not here.intersects_path(there), f"{one!r} overlaps {other!r}"
    page = figure.get_tightbbox(FigureCanvasAgg(figure).get_renderer()).padded(0.12)
    for text, place in found:
        inches = place.transformed(figure.dpi_scale_trans.inverted()).get_extents()
        assert page.fully_containsx(inches.x0) and page.fully_containsx(inches.x1), f"{text!r} leaves the page"
        assert page.fully_containsy(inches.y0) and page.fully_containsy(inches.y1), f"{text!r} leaves the page"


def test_each_picture_is_the_only_file_it_leaves(tmp_path: Path) -> None:
    sweeps.plot_sweep({"lr": [1e-3, 1e-2]}, [[0.5], []], jobs(2), ("1 job", 0), tmp_path / "sweep.png")
    curves.plot_comparison({"a": metrics([0.5])}, tmp_path / "comparison.png")
    search.plot_search_history([0.5, None], [False, True], tmp_path / "history.png")
    search.plot_importances({"lr": 1.0}, 30, tmp_path / "importances.png")
    names = ["comparison.png", "history.png", "importances.png", "sweep.png"]
    assert sorted(file.name for file in tmp_path.iterdir()) == names
    for name in names:
        picture = imread(tmp_path / name)
        assert (picture[[0, -1]] == 1).all() and (picture[:, [0, -1]] == 1).all(), "the page is white to its edges"
        assert (picture[..., :3] < 0.9).any(), "and something is drawn on it"


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([0.0001, 0.01], "log"),
        ([1, 4, 20], "log"),
        ([1, 19.9], "linear"),
        ([0, 1, 1000], "linear"),
        ([-1, 1, 1000], "linear"),
        ([3], "linear"),
        ([False, True], "category"),
        (["1", "100"], "category"),
        ([None, 0.1, 10], "category"),
        ([NAN, 0.1, 10], "category"),
        ([[1, 2], [3, 4]], "category"),
    ],
)
def test_an_axis_is_logarithmic_if_all_is_positive_and_spans_a_factor_of_20(values: list[Any], scale: str) -> None:
    assert scales.build_scale(values).kind == scale
    axes = sweep({"key": values}).axes[0]
    assert axes.get_xscale() == ("log" if scale == "log" else "linear")
    if scale == "category":
        assert ticks(axes) == [scales.spell(value) for value in values], "the order given"


def test_names_are_written_as_in_yaml_and_numbers_are_sorted() -> None:
    assert ticks(sweep({"key": [None, True, "b", "a", 0.5]}).axes[0]) == ["null", "true", "b", "a", "0.5"]
    assert ticks(sweep({"key": [8, 4, 6]}).axes[0]) == ["4", "6", "8"]
    assert ticks(sweep({"key": [1e-5, 3e-5]}).axes[0]) == ["1e-5", "3e-5"]


def test_many_numbers_have_round_ticks() -> None:
    assert ticks(sweep(some("training.lr")).axes[0]) == ["0.0002", "0.0005", "0.001", "0.002", "0.005"]
    assert ticks(sweep({"key": list(np.linspace(0.1, 0.97, 40))}).axes[0]) == ["0.2", "0.4", "0.6", "0.8"]


def test_one_setting_is_a_line_of_means_with_the_sample_deviation_and_every_job() -> None:
    axes = sweep({"layers": [8, 4, 6]}, [[0.9, 0.94], [0.5], []]).axes[0]
    (line,) = labeled(axes, "mean")
    assert points(line) == [[4, 50], [6, pytest.approx(NAN, nan_ok=True)], [8, 92]]
    (bars,) = (container for container in axes.containers if isinstance(container, ErrorbarContainer))
    (segments,) = (collection.get_segments() for collection in bars.lines[2])
    (drawn,) = (segment for segment in segments if len(segment) and np.isfinite(segment).all())
    half = 100 * np.std([0.9, 0.94], ddof=1)
    assert_close(drawn, [[8, 92 - half], [8, 92 + half]])
    assert [points(line) for line in labeled(axes, "job")] == [[[8, 90], [8, 94]]]
    assert [points(line) for line in labeled(axes, "best")] == [[[8, 92]]]
    assert "best mean 92.00 ± 2.83 % (n = 2)" in texts(axes.figure)


def test_the_cells_of_a_heat_map_say_the_means_and_the_best_is_framed() -> None:
    settings: dict[str, list[Any]] = {"layers": [8, 8, 4, 4, 4], "optimizer": ["sgd", "adamw", "sgd", "adamw", "lion"]}
    axes = sweep(settings, [[0.5, 0.7], [0.9], [NAN], [], [0.8]]).axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("optimizer", "layers"), "more values lie across"
    assert (ticks(axes, "x"), ticks(axes, "y")) == (["sgd", "adamw", "lion"], ["4", "8"])
    cells: Any = axes.images[0].get_array()
    cells = np.where(cells.mask, NAN, cells.data)
    assert_close(cells, [[NAN, NAN, 80], [60, 90, NAN]])
    said = {text.get_position(): text.get_text() for text in axes.texts if text.get_text()[0].isdigit()}
    assert said == {(2, 0): "80.0", (0, 1): "60.0", (1, 1): "90.0"}
    (frame,) = (patch for patch in axes.patches if patch.get_label() == "best")
    assert frame.get_bbox().bounds == (0.5, 0.5, 1, 1)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("settings", "mapped"),
    [
        (grid(a=list(range(12)), b=[1, 2]), True),
        (grid(a=list(range(13)), b=[1, 2]), False),
        ({"a": [1, 2, 3, 4], "b": [4, 2, 1, 3]}, False),
        ({"a": [1], "b": [2]}, True),
    ],
)
def test_two_settings_are_a_heat_map_unless_drawn_at_random(settings: dict[str, list[Any]], mapped: bool) -> None:
    axes = sweep(settings).axes[0]
    assert bool(axes.images) is mapped
    assert bool(axes.collections) is not mapped


def test_a_scatter_plot_is_colored_by_the_mean_and_hollow_where_nothing_has_finished() -> None:
    settings = {"lr": [0.001, 0.01, 0.1, 1], "decay": [0.1, 0.3, 0.2, 0.0]}
    axes = sweep(settings, [[0.9], [0.5, 0.7], [], [0.2]]).axes[0]
    (dots,) = axes.collections
    means = np.asarray(dots.get_array())
    drawn = np.c_[np.asarray(dots.get_offsets()), means][np.isfinite(means)]
    assert_close(drawn, [[1, 0, 20], [0.01, 0.3, 60], [0.001, 0.1, 90]])
    assert points(next(line for line in axes.lines if line.get_markerfacecolor() == "none")) == [[0.1, 0.2]]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")


def test_three_settings_are_parallel_axes_with_a_line_for_each_group() -> None:
    settings: dict[str, list[Any]] = {
        "layers": [4, 8, 6],
        "lr": [0.01, 0.001, 0.1],
        "optimizer": ["sgd", "adamw", "sgd"],
    }
    axes = sweep(settings, [[0.5], [0.9, 0.94], []]).axes[0]
    groups = [labeled(axes, f"group {i}") for i in range(3)]
    heights = [np.asarray(line.get_ydata()) for (line,) in groups]
    assert_close(heights, [[0, 0.5, 0, 0], [1, 0, 1, 1], [0.5, 1, 0, NAN]])
    (best,) = groups[1]
    assert best.get_linewidth() >= 2 * max(groups[0][0].get_linewidth(), groups[2][0].get_linewidth())
    assert best.get_zorder() == max(line.get_zorder() for line in axes.lines)
    assert to_hex(best.get_color()) == style.VAL
    names = {text.get_text() for text in axes.texts}
    assert names >= {"layers", "lr", "optimizer", "accuracy (%)", "4", "8", "0.001", "0.1", "sgd", "adamw", "50", "92"}


def test_without_settings_all_jobs_stand_in_a_row_with_their_mean() -> None:
    axes = sweep({}, [[0.5, NAN, 0.7]]).axes[0]
    assert [points(line) for line in labeled(axes, "job")] == [[[1, 50], [2, 70]]]
    assert [points(line)[0][1] for line in labeled(axes, "mean")] == [60]
    assert "mean 60.00 ± 14.14 % (n = 2)" in texts(axes.figure)


@pytest.mark.parametrize("keys", [[], ["a"], ["a", "b"], ["a", "b", "c"]])
def test_a_sweep_of_which_nothing_has_finished_says_so(keys: list[str]) -> None:
    said = texts(sweep({key: [1, 2, 3] for key in keys}, [[]] * 3 if keys else [], curves={}))
    assert "no job has finished yet" in said and "no epoch has finished yet" in said
    assert not any("best " in text for text in said)
    assert "no job has finished yet" not in texts(sweep({key: [1, 2, 3] for key in keys}))


def test_up_to_eight_curves_have_colors_and_names_and_of_more_only_the_best_is_named() -> None:
    few = sweep({}, curves=jobs(8), best="3 job").axes[1]
    assert entries(few) == [f"{i} job — {50 + i}.00 %" for i in (7, 6, 5, 4, 3, 2, 1, 0)], "in the order of the curves"
    assert len({to_hex(line.get_color()) for line in few.lines if len(points(line)) > 1}) == 8
    many = sweep({}, curves=jobs(9), best="3 job").axes[1]
    assert entries(many) == ["3 job — 53.00 %"]
    assert entries(sweep({}, curves=jobs(9)).axes[1]) == []


@pytest.mark.parametrize("length", [1, 8, 15, 22, 40, 300])
def test_a_legend_is_not_wider_than_its_panel(length: int) -> None:
    figure = sweep({}, curves=jobs(8, name="m" * length))
    renderer = FigureCanvasAgg(figure).get_renderer()
    legend = figure.axes[1].get_legend()
    assert legend is not None
    assert legend.get_window_extent(renderer).width <= figure.axes[1].get_window_extent().width


@pytest.mark.parametrize("num", [2, 30])
def test_the_best_curve_is_thick_in_front_ringed_and_named(num: int) -> None:
    axes = sweep({}, curves=jobs(num) | {"it": ([4.0, 5.0, 6.0], [0.2, 0.96, 0.5])}, best="it").axes[1]
    lines = [line for line in axes.lines if len(points(line)) > 1]
    (best,) = (line for line in lines if points(line)[0][0] == 4)
    others = [line for line in lines if line is not best]
    assert len(others) == num
    assert best.get_linewidth() >= 2 * max(line.get_linewidth() for line in others)
    assert best.get_zorder() > max(line.get_zorder() for line in others)
    assert to_hex(best.get_color()) == style.VAL not in {to_hex(line.get_color()) for line in others}
    assert [points(line) for line in axes.lines if len(points(line)) == 1] == [[[5, 96]]]
    assert "━ best 96.00 %, epoch 5" in texts(axes.figure)


def test_of_epochs_of_one_accuracy_the_one_whose_weights_are_kept_is_ringed() -> None:
    axes = sweep({}, curves={"it": ([1.0, 2.0, 3.0], [0.9, 0.9, 0.9])}, best="it", best_epoch=3).axes[1]
    assert "━ best 90.00 %, epoch 3" in texts(axes.figure)


def test_many_curves_are_darker_the_higher_they_end() -> None:
    axes = sweep({}, curves=jobs(20)).axes[1]
    ends = {points(line)[-1][1]: sum(to_rgb(line.get_color())) for line in axes.lines}
    brightness = [ends[end] for end in sorted(ends)]
    assert len(brightness) == 20 and brightness == sorted(set(brightness), reverse=True)


def test_one_failed_job_does_not_make_the_others_look_alike() -> None:
    values = np.array([10, 94, 95, 96, 97, 98, NAN])
    norm = style.shade(values)
    assert norm(94) < 0.6 and norm(98) == 1 and norm(10) <= 0
    assert style.shade(np.array([NAN]))(50) == style.shade(np.array([]))(50)


def test_one_epoch_is_a_dot_and_a_curve_without_a_number_is_left_out() -> None:
    curves = {"a": ([1.0], [0.5]), "b": ([1.0, 2.0], [NAN, NAN]), "c": ([], [])}
    axes = sweep({}, curves=curves).axes[1]
    (line,) = axes.lines
    assert points(line) == [[1, 50]] and line.get_marker() == "o"
    assert entries(axes) == ["a — 50.00 %"]


def test_a_comparison_draws_validation_solid_and_training_dotted_in_the_color_of_the_run() -> None:
    runs = {"a": metrics([0.5, 0.7, 0.6], train_acc=[0.5, 0.8, 0.9], train_loss=[3, 2, 1]), "b": metrics([0.1])}
    loss, accuracy = curves._draw_comparison(runs).axes
    assert [points(line) for line in labeled(accuracy, "val")] == [[[1, 50], [2, 70], [3, 60]], [[1, 10]]]
    assert points(labeled(loss, "train")[0]) == [[1, 3], [2, 2], [3, 1]]
    for axes in (loss, accuracy):
        assert {line.get_linestyle() for line in labeled(axes, "val")} == {"-"}
        assert {line.get_linestyle() for line in labeled(axes, "train")} == {":"}
        colors = [[line.get_color() for line in labeled(axes, label)] for label in ("val", "train", "best")]
        assert colors[0] == colors[1] == colors[2] == style.PALETTE[:2]
    assert [points(line) for line in labeled(accuracy, "best")] == [[[2, 70]], [[1, 10]]]
    assert [points(line)[0][0] for line in labeled(loss, "best")] == [2, 1]
    assert entries(loss) == ["a — 70.00 %", "b — 10.00 %"]


def test_a_comparison_takes_the_averaged_weights_where_they_are_better() -> None:
    averaged = {"ema_val_acc": [0.4, 0.9], "ema_val_loss": [0.6, 0.1]}
    loss, accuracy = curves._draw_comparison({"a": metrics([0.5, 0.7], **averaged)}).axes
    assert [points(line) for line in labeled(accuracy, "ema_val")] == [[[1, 40], [2, 90]]]
    assert [points(line) for line in labeled(loss, "ema_val")] == [[[1, 0.6], [2, 0.1]]]
    assert not labeled(accuracy, "val")
    _, accuracy = curves._draw_comparison({"a": metrics([0.5, 0.95], **averaged)}).axes
    assert [points(line) for line in labeled(accuracy, "val")] == [[[1, 50], [2, 95]]]


def test_a_comparison_without_accuracies_rings_the_lowest_loss() -> None:
    loss, accuracy = curves._draw_comparison({"a": {"epoch": [1, 2, 3], "val_loss": [3, 1, 2]}}).axes
    assert [points(line) for line in labeled(loss, "best")] == [[[2, 1]]]
    assert entries(loss) == ["a"]
    assert "no numbers yet" in {text.get_text() for text in accuracy.texts}


def test_long_names_of_runs_keep_both_ends_and_those_that_look_alike_their_index() -> None:
    middle = "x" * 300
    loss, _ = curves._draw_comparison({f"first{middle}last": metrics([0.5]), "b": metrics([0.5])}).axes
    assert entries(loss)[0].startswith("firstxx") and entries(loss)[0].endswith("xlast — 50.00 %")
    loss, _ = curves._draw_comparison({f"a{middle}{i}{middle}": metrics([0.5]) for i in range(3)}).axes
    assert [entry[:4] for entry in entries(loss)] == ["0 ax", "1 ax", "2 ax"]


def test_ten_runs_have_ten_colors() -> None:
    figure = curves._draw_comparison({f"run {i}": metrics([0.5]) for i in range(10)})
    assert len({line.get_color() for line in labeled(figure.axes[1], "val")}) == 10


def test_the_best_so_far_ignores_pruned_trials_and_those_without_a_value() -> None:
    values, pruned = [0.5, None, 0.9, 0.4, 0.7, NAN], [False, False, True, False, False, False]
    axes = search._draw_search_history(values, pruned).axes[0]
    (best,) = labeled(axes, "best so far")
    assert [height for _, height in points(best)] == [50, 50, 50, 50, 70, 70]
    assert best.get_drawstyle() == "steps-post"
    (finished,), (stopped,), (missing,) = (labeled(axes, label) for label in ("finished", "pruned", "no value"))
    assert points(finished) == [[0, 50], [3, 40], [4, 70]]
    assert points(stopped) == [[2, 90]] and stopped.get_markerfacecolor() == "white"
    assert [trial for trial, _ in points(missing)] == [1, 5]
    assert "best 70.00 %, trial 4" in texts(axes.figure)
    assert sorted(entries(axes)) == ["best so far", "finished", "no value", "pruned"]


def test_importances_stand_in_their_order_with_their_numbers() -> None:
    figure = search._draw_importances({"small": 0.05, CROP: 0.7, "unknown": NAN, "middle": 0.25}, 12)
    axes = figure.axes[0]
    assert ticks(axes, "y") == [CROP, "middle", "small", "unknown"]
    assert axes.yaxis_inverted(), "the first is on top"
    assert [bar.get_width() for bar in axes.patches] == [0.7, 0.25, 0.05, 0]  # type: ignore[attr-defined]
    assert {"0.70", "0.25", "0.05", "0.00"} <= set(texts(figure))
    assert axes.get_xlim() == (0, 1)


def test_a_key_breaks_behind_its_dots_and_where_that_is_not_enough_behind_underscores() -> None:
    assert letters.wrap(CROP, 50) == CROP
    assert letters.wrap(CROP, 13) == "augmentation.\nrandom_resized_crop"
    assert letters.wrap(CROP, 9) == "augmentation.\nrandom_resized_\ncrop"
    assert letters.wrap("x" * 50, 5) == letters.label("x" * 50, 5)


@pytest.mark.parametrize("width", [4.0, 8.0, 20.0])
def test_a_shortened_name_fits_and_keeps_both_ends(width: float) -> None:
    name = "multirun/2026-01-31/12-00-00/7/checkpoints/best.safetensors"
    short = letters.shorten(name, width)
    head, tail = short.split("…")
    assert name.startswith(head) and name.endswith(tail) and head and tail
    assert width - 2 < letters.measure(short) <= width
    assert letters.shorten("short", 8) == "short"
