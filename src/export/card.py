"""The model card of an export: README.md in the form of the Hugging Face Hub, from what the run has written.

Names of classes, data sets and files may be a stranger's: they are escaped. The card is made to be published, so it has
no folders of this machine, no names of users or hosts, and no images of the data set.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..machine.disk import read_csv, read_object, write_text
from ..machine.memory import format_bytes
from ..run import files
from ..run.validate import as_number
from ..tables import Table, escape_markdown, format_percent
from .bundle import Bundle
from .card_facts import cut, describe_data, describe_training, dump_recipe, list_recipe, name_base, name_data
from .card_limits import list_limits
from .card_usage import describe_input, list_examples

CARD, RECIPE = "README.md", "training.yaml"
COPIES = (files.CONFUSION, files.CURVES, files.PER_CLASS)  # from the run's folder; placed beside the card
FOLDED, WORST, BEST = 12, 20, 10  # rows of a table that is not folded; rows of one that has too many
LICENSE = "# license: mit    # yours to choose; it depends on the images, too, and on weights that training began with"
LIBRARIES = {"timm": "timm", "hf": "transformers", "onnx": "onnx", "onnx-int8": "onnx"}
AGREEMENT = ("max_probability_difference", "same_class")  # in parity.json

Parity = Mapping[str, Mapping[str, Any]]  # what parity.json has, by format


def write_card(bundle: Bundle, formats: Parity, folder: Path) -> list[str]:
    """Write README.md, and the pictures and tables that it shows, into a folder; return their names.

    formats: what parity.json has of each format that was written. What the run does not have is left out.
    """
    names = []
    for name in COPIES:
        source = bundle.run.folder / name
        if source.is_file() and not source.is_symlink() and source.stat().st_size:
            shutil.copyfile(source, folder / source.name)
            names.append(source.name)
    write_text(folder / RECIPE, dump_recipe(bundle.config))
    write_text(folder / CARD, format_card(bundle, formats, names))
    return [CARD, RECIPE, *names]


def format_card(bundle: Bundle, formats: Parity, names: Sequence[str]) -> str:
    """Return the text of the card. names: the files that were copied beside it."""
    tested = read_object(bundle.run.folder / files.TEST_METRICS)
    classes = _read_classes(bundle)
    named = [(escape_markdown(clean(name)), row) for name, row in classes]
    blocks = [
        f"# {escape_markdown(clean(name_data(bundle.config)))}: a Vision Transformer for {len(bundle.classes)} classes",
        _introduce(bundle, tested),
        "## Results",
        *_list_results(bundle, tested),
        *_list_classes(classes),
        *_show(names, Path(files.CONFUSION).name, "Confusion matrix of the test images"),
        "## Limits",
        _list(list_limits(bundle, tested, named)),
        "## Use it",
        describe_input(bundle.preprocessing),
        *list_examples(bundle, formats),
        *_compare_files(bundle, formats),
        "## Data",
        _list_facts(describe_data(bundle.run, bundle.config, bundle.classes)),
        "## Training",
        _list_facts(describe_training(bundle.run, bundle.config)),
        *_list_settings(bundle),
        *_show(names, Path(files.CURVES).name, "Loss, accuracy and learning rate of each epoch"),
        "## Publish it",
        "Choose a license at the top of this file and read the card once. Then, in this folder:",
        "```bash\nhf upload OWNER/NAME .\n```",
    ]
    return f"---\n{LICENSE}\n{_format_facts(bundle, formats, tested)}---\n\n" + "\n\n".join(blocks) + "\n"


def clean(text: str) -> str:
    """Return a name on one line, cut if it is very long, for a table or for `escape_markdown`."""
    return cut(text).replace("&", "&amp;")  # otherwise "&lt;" would be shown as "<"


def _read_classes(bundle: Bundle) -> list[tuple[str, dict[str, float]]]:
    """Return precision, recall, F1 and number of test images of each class; [] if the run has no such table."""
    try:
        return [
            (row["class"], {key: float(row[key]) for key in ("precision", "recall", "f1", "support")})
            for row in read_csv(bundle.run.folder / files.PER_CLASS)
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _format_facts(bundle: Bundle, formats: Parity, tested: dict[str, Any]) -> str:
    """Return the front matter, https://github.com/huggingface/hub-docs/blob/main/modelcard.md, as YAML."""
    libraries = list(dict.fromkeys(LIBRARIES[name] for name in LIBRARIES if name in formats))
    # The Hub shows code of this library, which loads from the main folder: that of transformers is hf/.
    library = next((name for name in libraries if name != LIBRARIES["hf"]), None)
    facts: dict[str, Any] = {"library_name": library} if library else {}
    others = [name for name in libraries if name != library]
    tags = ["image-classification", "vision-transformer", "pytorch", *others]
    facts |= {"base_model": base} if (base := name_base(bundle.config)) else {}
    facts |= {"pipeline_tag": "image-classification", "tags": tags, "metrics": ["accuracy"]}
    measured = [
        {"type": kind, "name": name, "value": value}
        for key, kind, name in (("accuracy", "accuracy", "Accuracy"), ("macro_f1", "f1", "Macro F1"))
        if (value := as_number(tested.get(key))) is not None
    ]
    if measured:
        kind, name = bundle.config.dataset.name, cut(name_data(bundle.config))
        result = {
            "task": {"type": "image-classification", "name": "Image classification"},
            # The Hub's name for a folder of images.
            "dataset": {"type": "imagefolder" if kind == "image_folder" else kind, "name": name, "split": "test"},
            "metrics": measured,
        }
        facts |= {"model-index": [{"name": f"{name} ViT", "results": [result]}]}
    return yaml.safe_dump(facts, sort_keys=False, allow_unicode=True, width=float("inf"))


def _introduce(bundle: Bundle, tested: dict[str, Any]) -> str:
    height, width = bundle.preprocessing.size
    parameters = sum(parameter.numel() for parameter in bundle.model.parameters())
    start = "fine-tuned" if bundle.config.init.weights else "trained from scratch"
    what = f"A Vision Transformer with {parameters:,} parameters for images of {width} × {height} px, {start}."
    accuracy, count = as_number(tested.get("accuracy")), as_number(tested.get("images"))
    if accuracy is None or not count:
        return f"{what} It has no test results."
    return f"{what} Of {count:,.0f} test images, it gets **{accuracy:.2%}** right{_interval(tested, ' ({})')}."


def _interval(tested: dict[str, Any], form: str) -> str:
    """Return the 95 % interval of the accuracy in a form such as "({})"; "" if it is not known."""
    low, high = (as_number(tested.get(key)) for key in ("accuracy_low", "accuracy_high"))
    return "" if low is None or high is None else form.format(f"95 % interval {low:.1%} to {high:.1%}")


def _list_results(bundle: Bundle, tested: dict[str, Any]) -> list[str]:
    """Return the table of the results, and how the splits were used."""
    rows = []
    for key, name in (
        ("accuracy", "test accuracy"),
        ("top5_accuracy", "test accuracy, top 5"),
        ("mean_class_accuracy", "mean of the classes' accuracies"),
        ("macro_f1", "macro F1"),
    ):
        value = as_number(tested.get(key))
        note = _interval(tested, "{}") if key == "accuracy" else ""
        rows += [] if value is None else [[name, format_percent(value), note]]
    validation, epoch = bundle.run.val_acc, bundle.run.number("best_epoch")
    if validation is not None:
        rows.append(["validation accuracy", format_percent(validation), "" if epoch is None else f"epoch {epoch:.0f}"])
    told = (
        "The validation images chose the epoch; the test images chose nothing."
        if tested
        else "The run was not tested: that is done at the end of a training that has finished."
    )
    table = Table(["result", "value", "note"], rows, ["value"]).to_markdown()
    return [table, told] if rows else [told]


def _list_classes(classes: list[tuple[str, dict[str, float]]]) -> Iterator[str]:
    """Yield the table of the classes: a long one folded, of a very long one the worst and the best."""
    if not classes:
        return
    shown, heading = classes, f"The {len(classes)} classes"
    if len(classes) > WORST + BEST:
        ranked = sorted(classes, key=lambda item: (item[1]["f1"], item[1]["recall"]))
        shown = [*ranked[:WORST], *ranked[-BEST:]]
        heading = f"The {WORST} classes with the lowest F1, then the {BEST} with the highest"
    columns = ["class", "precision", "recall", "F1", "test images"]
    rows = [
        [clean(name), *(format_percent(row[key]) for key in ("precision", "recall", "f1")), f"{row['support']:,.0f}"]
        for name, row in shown
    ]
    text = Table(columns, rows, columns[1:]).to_markdown()
    if left := len(classes) - len(shown):
        name = Path(files.PER_CLASS).name
        text += f"\n\nAnd {left:,} more in [{name}]({name})."
    yield _fold(heading, text, len(classes))


def _fold(heading: str, text: str, rows: int) -> str:
    """Return a text that opens with a click if its table has many rows."""
    return f"<details><summary>{heading}</summary>\n\n{text}\n\n</details>" if rows > FOLDED else text


def _compare_files(bundle: Bundle, formats: Parity) -> list[str]:
    """Return the table of how closely the written files agree with the run; [] if nothing was compared."""
    rows = []
    for name, facts in formats.items():
        difference, agreement = (as_number(facts.get(key)) for key in AGREEMENT)
        if difference is None and agreement is None:
            continue
        count = as_number(facts.get("images"))
        numbers = [_format_size(facts), "" if count is None else f"{count:,.0f}", _format_difference(difference)]
        rows.append([clean(name), *numbers, format_percent(agreement)])
    if not rows:
        return []
    columns = ["format", "size", "images", "largest difference of a probability", "same class"]
    told = f"Each was read back and compared with the run, on {_name_images(bundle, formats)}:"
    return [
        "### How closely the files agree",
        told,
        Table(columns, rows, columns[1:]).to_markdown(),
        *_compare_resizing(formats),
    ]


def _name_images(bundle: Bundle, formats: Parity) -> str:
    """Return on which images the formats were checked: some may have been earlier, on others."""
    sources: dict[str, list[str]] = {}
    for name, facts in formats.items():
        source = facts.get("source")
        sources.setdefault(source if isinstance(source, str) else bundle.samples.source, []).append(clean(name))
    shown = {escape_markdown(clean(source)): ", ".join(names) for source, names in sources.items()}
    if len(shown) == 1:
        return next(iter(shown))
    return "; ".join(f"{source} ({names})" for source, names in shown.items())


def _format_size(facts: Mapping[str, Any]) -> str:
    listed = facts.get("files")
    found = (
        [file.get("bytes") for file in listed.values() if isinstance(file, Mapping)]
        if isinstance(listed, Mapping)
        else []
    )
    sizes = [size for size in map(as_number, found) if size is not None]
    return format_bytes(sum(sizes)) if sizes else ""


def _format_difference(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}" if value else "0"


def _compare_resizing(formats: Parity) -> list[str]:
    """Return a sentence about the formats whose readers were given whole pictures, which they resize on their own."""
    told = []
    for name, facts in formats.items():
        own = facts.get("own_preprocessing")
        difference, same = (as_number(own.get(key)) if isinstance(own, Mapping) else None for key in AGREEMENT)
        if difference is not None and same is not None:
            reader = escape_markdown(clean(str(facts.get("read_by") or name)))
            told.append(f"{reader} {_format_difference(difference)} ({same:.2%} same class)")
    return [f"With their own resizing, which may round sizes differently: {', '.join(told)}."] if told else []


def _list_settings(bundle: Bundle) -> list[str]:
    rows = [[clean(cell) for cell in row] for row in list_recipe(bundle.run)]
    told = f"All settings are in [{RECIPE}]({RECIPE})"
    if not rows:
        return [f"{told}; none differs from the chosen options."]
    table = Table(["setting", "value", "default"], rows).to_markdown()
    return [f"{told}; these differ from the chosen options:", _fold(f"The {len(rows)} settings", table, len(rows))]


def _list_facts(facts: Sequence[tuple[str, str]]) -> str:
    return _list([f"**{name}**: {escape_markdown(text.replace('&', '&amp;'))}" for name, text in facts])


def _list(sentences: Sequence[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _show(names: Sequence[str], name: str, title: str) -> list[str]:
    return [f"![{title}]({name})"] if name in names else []
