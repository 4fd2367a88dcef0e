"""Publish finished runs: keep what is small of them in benchmarks/results/, and write the tables of the documentation.

    python benchmarks/results.py keep outputs/2026-01-31/12-00-00 …     runs, or folders with runs, such as a sweep
    python benchmarks/results.py levers multirun/2026-01-31/12-00-00    a sweep of benchmarks/levers.txt
    python benchmarks/results.py pictures outputs/2026-01-31/12-00-00   docs/RECIPE_curves.png, _attention, _mistakes
    python benchmarks/results.py write                                 the tables in README.md and docs/results.md
    python benchmarks/results.py check                                 whether they are up to date (for CI)

`keep` stores the metrics of each epoch and the facts of the run as RECIPE/SEED.csv and .json, where a recipe is the
option of `experiment=`; of a run without one, name it with --name. Nothing but finished runs is kept. The curves are
the validation accuracy of the best epoch so far; the test split is used once, at the end of a run. `levers` stores what
each job of a sweep changed, and its validation accuracy. The mistakes are the test images that the model was surest of.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.machine.disk import read_csv, read_object, write_csv
from src.run.files import ATTENTION, CURVES, ENVIRONMENT, METRICS, STATUS, SWEEP_TABLE, TEST_METRICS, TEST_PREDICTIONS
from src.tables import Table, describe_mean, mean

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "benchmarks" / "results"
LEVERS = "levers.csv"
MINUTES = (15, 30, 60, 120)
PAGES = ("README.md", "docs/results.md")
BEGIN, END = "<!-- {}: written by benchmarks/results.py -->", "<!-- end of {} -->"
GROUPS = ("model", "optimizer", "augmentation")
LEVER_FACTS = ("seed", "val_acc", "epochs", "images_per_second")
LOCAL = ("hydra.", "dataset.cache")  # overrides that do not change the result
OWN_IMAGES = ("image_folder", "csv", "imagenet", None)
NUM_MISTAKES, WIDTHS, LARGEST = 24, (900, 700, 550), 150_000  # images; pixels and bytes of a picture


def find_runs(folder: Path) -> list[Path]:
    """Return the finished runs of a folder: itself, or those below it. Raises SystemExit if there are none."""
    found = sorted(path.parent for path in [*folder.glob(STATUS), *folder.glob(f"*/{STATUS}")])
    finished = [run for run in found if read_object(run / STATUS).get("status") == "finished"]
    if not finished:
        raise SystemExit(f"{folder}: no finished run")
    return finished


def describe_run(run: Path, name: str | None) -> dict[str, Any]:
    """Return what is published of a run besides its metrics; without folders of this machine."""
    status, environment, test = (read_object(run / file) for file in (STATUS, ENVIRONMENT, TEST_METRICS))
    own = environment["choices"].get("dataset") in OWN_IMAGES
    left_out = LOCAL if own else (*LOCAL, "dataset.root=")  # which is then where a download is
    overrides = [word for word in environment["overrides"] if not word.startswith(left_out)]
    recipe = name or environment["choices"].get("experiment")
    if not recipe:
        raise SystemExit(f"{run}: no experiment; name it with --name")
    seed = next((int(word.partition("=")[2]) for word in overrides if word.startswith("seed=")), 0)
    words = [word for word in overrides if not word.startswith("seed=")]
    return {
        "recipe": recipe,
        "seed": seed,
        "command": " ".join(["python train.py", *map(hide_folder, words)]),
        "date": str(status["started"])[:10],
        "processor": environment.get("gpu") or environment["processor"],
        "cores": environment["cores"],
        "torch": str(environment["torch"]).partition("+")[0],
        "commit": (environment.get("git") or {}).get("commit"),
        **{key: status[key] for key in ("parameters", "epochs", "best_epoch", "best_val_acc", "seconds")},
        "test_acc": test["accuracy"],
        "mean_class_accuracy": test["mean_class_accuracy"],
    }


def hide_folder(word: str) -> str:
    """Return a typed override, with the last name of a path alone."""
    key, _, value = word.partition("=")
    name = Path(value.strip("'")).name
    return f"{key}={name}" if key in ("dataset.root", "init.weights") else word


def keep(folders: list[Path], name: str | None) -> None:
    for folder in folders:
        for run in find_runs(folder):
            facts = describe_run(run, name)
            place = KEPT / facts["recipe"]
            place.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(run / METRICS, place / f"{facts['seed']}.csv")
            (place / f"{facts['seed']}.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
            print(f"{run}: {facts['recipe']}, seed {facts['seed']}, test accuracy {facts['test_acc']:.2%}")


def keep_levers(sweep: Path) -> None:
    """Keep what each job of a sweep changed, and LEVER_FACTS. Raises SystemExit if one did not finish."""
    if not (sweep / SWEEP_TABLE).exists():
        raise SystemExit(f"{sweep}: not a sweep, as it has no {SWEEP_TABLE}")
    rows = sorted(read_csv(sweep / SWEEP_TABLE), key=lambda row: int(row["job"]))
    if unfinished := [row["job"] for row in rows if row["status"] != "finished"]:
        raise SystemExit(f"{sweep}: not finished: jobs {', '.join(unfinished)}")
    settings = (key for key in rows[0] if "." in key or key in GROUPS)
    keys = [key for key in settings if len({row[key] for row in rows}) > 1]
    write_csv(KEPT / LEVERS, [{key: row[key] for key in (*keys, *LEVER_FACTS)} for row in rows])


def tabulate_levers(rows: list[dict[str, str]]) -> Table:
    """Return a row per lever: its accuracy over the seeds, and what it gains over the first one, the recipe itself."""
    levers: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        changed = " ".join(f"{key}={value}" for key, value in row.items() if value and key not in LEVER_FACTS)
        levers.setdefault(changed, []).append(row)
    table: list[list[str]] = []
    first = None
    for changed, group in levers.items():
        _, accuracies, epochs, rates = ([float(row[fact]) for row in group] for fact in LEVER_FACTS)
        first = fmean(accuracies) if first is None else first
        gain = f"{100 * (fmean(accuracies) - first):+.1f}"
        table.append([changed, describe_mean(accuracies), gain, f"{fmean(epochs):.0f}", f"{fmean(rates):.0f}"])
    return Table(("changed", "validation accuracy", "points", "epochs", "images/s"), table)


def draw_pictures(run: Path, name: str | None) -> None:
    """Write the curves, the attention and the surest mistakes of a run into docs/, small."""
    import torch

    from src.data.load import load_data
    from src.plots.images import plot_predictions
    from src.run.resume import read_config
    from src.run.saved import read_run

    recipe = describe_run(run, name)["recipe"]
    for picture in (CURVES, ATTENTION):
        shrink(run / picture, ROOT / "docs" / f"{recipe}_{Path(picture).name}")
    config = read_config(read_run(run))
    size = config.model.image_size
    test = load_data(config.dataset, size, lambda items, *_: items, stored_size=size, resumed=True).test
    answers = list(enumerate(read_csv(run / TEST_PREDICTIONS)))
    wrong = [(index, row) for index, row in answers if row["correct"] == "0"]
    surest = sorted(wrong, key=lambda pair: -float(pair[1]["confidence"]))[:NUM_MISTAKES]
    pictures = test.images.take(torch.tensor([index for index, _ in surest])).permute(0, 2, 3, 1).numpy()
    true, predicted, confidences = ([row[key] for _, row in surest] for key in ("class", "predicted", "confidence"))
    path = ROOT / "docs" / f"{recipe}_mistakes.png"
    plot_predictions(pictures, true, predicted, list(map(float, confidences)), path)
    shrink(path, path)


def shrink(source: Path, path: Path) -> None:
    """Copy a picture in 256 colors, in the first of WIDTHS in which it has at most LARGEST bytes, or the last."""
    with Image.open(source) as opened:
        whole = opened.convert("RGB")
    for width in WIDTHS:
        size = min(width, whole.width), round(whole.height * min(1, width / whole.width))
        whole.resize(size, Image.Resampling.LANCZOS).quantize(256, Image.Quantize.MEDIANCUT, kmeans=2).save(path)
        if path.stat().st_size <= LARGEST:
            break


def read_kept() -> dict[str, list[dict[str, Any]]]:
    """Return the facts of the kept runs by recipe, with their epochs, in the order of the seeds."""
    recipes: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(KEPT.glob("*/*.json"), key=lambda path: (path.parent.name, int(path.stem))):
        facts = json.loads(path.read_text(encoding="utf-8"))
        rows = [
            {key: float(value) for key, value in row.items() if value} for row in read_csv(path.with_suffix(".csv"))
        ]
        recipes.setdefault(path.parent.name, []).append(facts | {"rows": rows})
    return recipes


def best_after(run: dict[str, Any], minutes: float) -> float | None:
    """Return the best validation accuracy of the first minutes, None if the run was shorter or had no epoch by then.

    A run with a time limit ends some seconds before it.
    """
    accuracies = [
        max(row["val_acc"], row.get("ema_val_acc", 0.0)) for row in run["rows"] if row["seconds"] <= 60 * minutes
    ]
    return max(accuracies) if accuracies and run["seconds"] > 59 * minutes else None


def make_tables() -> dict[str, str]:
    """Return the Markdown of each table by name, of what is kept."""
    recipes = read_kept()
    short = Table(("recipe", "parameters", "test accuracy", "minutes"), [list_short(runs) for runs in recipes.values()])
    curves = ["recipe", "epochs", "test accuracy", "mean of the classes", *(f"{m} min" for m in MINUTES), "processor"]
    full = Table(curves, [list_full(runs) for runs in recipes.values()])
    commands = "\n".join(dict.fromkeys(runs[0]["command"] for runs in recipes.values()))
    tables = {"results": short.to_markdown(), "curves": full.to_markdown(), "commands": f"```bash\n{commands}\n```"}
    if (KEPT / LEVERS).exists():
        tables["levers"] = tabulate_levers(read_csv(KEPT / LEVERS)).to_markdown()
    return tables


def list_short(runs: list[dict[str, Any]]) -> list[str]:
    minutes = mean(run["seconds"] / 60 for run in runs)
    accuracy = describe_mean(run["test_acc"] for run in runs)
    return [runs[0]["recipe"], f"{runs[0]['parameters'] / 1e6:.1f} M", accuracy, f"{minutes:.3g}"]


def list_full(runs: list[dict[str, Any]]) -> list[str]:
    epochs = sorted({len(run["rows"]) for run in runs})
    shown = f"{epochs[0]}" if len(epochs) == 1 else f"{epochs[0]} to {epochs[-1]}"
    after = [mean(best_after(run, minutes) for run in runs) for minutes in MINUTES]
    processors = sorted({f"{run['cores']} core{'s' * (run['cores'] > 1)}, {run['processor']}" for run in runs})
    return [
        runs[0]["recipe"],
        shown,
        *(describe_mean(run[key] for run in runs) for key in ("test_acc", "mean_class_accuracy")),
        *("" if accuracy is None else f"{100 * accuracy:.1f} %" for accuracy in after),
        "; ".join(processors),
    ]


def fill_in(text: str, tables: dict[str, str]) -> str:
    """Return a page with its tables replaced, each between two comments that name it."""
    for name, table in tables.items():
        begin, end = BEGIN.format(name), END.format(name)
        if begin in text:
            before, _, rest = text.partition(begin)
            text = f"{before}{begin}\n\n{table}\n\n{end}{rest.partition(end)[2]}"
    return text


def fill_in_pages(write: bool) -> None:
    """Write the tables into the pages, or raise SystemExit if one of them has other ones."""
    tables = make_tables()
    for page in (ROOT / name for name in PAGES):
        text = page.read_text(encoding="utf-8")
        filled = fill_in(text, tables)
        if write:
            page.write_text(filled, encoding="utf-8")
        elif filled != text:
            raise SystemExit(f"{page.name} is out of date: python benchmarks/results.py write")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("keep", "levers", "pictures", "write", "check"))
    parser.add_argument("folders", nargs="*", type=Path, help="runs, or folders with runs; levers: a sweep")
    parser.add_argument("--name", help="the name of runs without experiment=")
    given = parser.parse_args()
    if given.task in ("keep", "levers", "pictures") and not given.folders:
        parser.error(f"{given.task} needs a folder")
    if given.task == "keep":
        keep(given.folders, given.name)
    elif given.task == "levers":
        keep_levers(given.folders[0])
    elif given.task == "pictures":
        draw_pictures(given.folders[0], given.name)
    else:
        fill_in_pages(write=given.task == "write")


if __name__ == "__main__":
    main()
