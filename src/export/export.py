"""The story of an export: a run's weights in the formats of other programs, each checked before anything is left."""

import contextlib
import json
import os
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .. import terminal
from ..config.inference import InferenceConfig
from ..machine.disk import short_path, write_json
from ..machine.memory import format_bytes
from ..run.best import load_best
from ..run.files import BEST, EXPORTS, PARITY
from ..run.saved import SavedRun, choose_run, name_others
from ..signals import Interrupts
from .bundle import Bundle
from .card import write_card
from .choose import check_formats, choose_formats
from .destination import Destination, describe_files, hash_file
from .formats import FORMATS
from .parity import Agreement, measure
from .samples import collect_samples

COLUMNS = ("format", "read by", "size", "images", "max |Δp|", "same class", "seconds")
Facts = Mapping[str, Any]  # what parity.json has of a format


def export_run(config: InferenceConfig) -> None:
    """Write the run in all `formats` into the folder `output`, if each file predicts as the run does.

    Raises ValueError for what cannot be exported or disagrees, OSError if the folder cannot be written. Then, and after
    a signal, the folder is as it was.
    """
    check_formats(config.formats)
    run = choose_run(config.run, config.roots)
    if config.run in ("best", "latest"):
        for line in name_others(run, config.roots):
            terminal.warn(line)
    folder = run.folder / EXPORTS if config.output is None else Path(os.path.expanduser(config.output))
    destination = Destination(folder, hash_file(run.folder / BEST))
    with Interrupts() as interrupts, destination.open_workspace() as workspace:
        bundle = replace(open_bundle(run), web_runtime=config.web_runtime)
        names, left_out = choose_formats(config.formats, bundle)
        destination.refuse_other_weights(names)
        _announce(bundle, left_out)
        written = {}
        with terminal.show_progress(len(names), "exporting") as advance:
            for name in names:
                written[name] = _write(name, bundle, destination, workspace)
                advance(1)
        kept = _finish(bundle, written, destination, workspace, interrupts)
    _report(destination.folder, written, kept)


def _announce(bundle: Bundle, left_out: Mapping[str, str]) -> None:
    run, epoch, count = bundle.run, bundle.run.number("best_epoch"), len(bundle.classes)
    weights = "" if epoch is None else f", weights of epoch {epoch:.0f}"
    classes = f"{count:,} class{'' if count == 1 else 'es'}"
    terminal.say(f"run         {short_path(run.folder.absolute())}: {run.dataset}, {classes}{weights}")
    terminal.say(f"checked     on {bundle.samples.source}")
    for name, reason in left_out.items():
        terminal.say(f"left out    {name}: {reason}")


def open_bundle(run: SavedRun) -> Bundle:
    """Return a run with its model and the images on which exports are checked. Raises ValueError if it is damaged."""
    config, classes, preprocessing = run.load()
    model = load_best(run.folder, config.model).requires_grad_(False)
    samples = collect_samples(run, config, preprocessing, model)
    return Bundle(run, config, model, classes, preprocessing, samples)


def _write(name: str, bundle: Bundle, destination: Destination, workspace: Path) -> dict[str, Any]:
    """Write a format and read it back; return what is known of it. Raises ValueError if it disagrees with the run."""
    chosen, start = FORMATS[name], time.perf_counter()
    with destination.explained():
        names = chosen.write(bundle, workspace)
    destination.refuse_foreign(names)
    agreement = _check(name, bundle, workspace)
    readable = not chosen.reader or find_spec(chosen.reader) is not None
    if not readable:
        terminal.say(f"{name}: {chosen.reader} is not installed, so the files were read back by our own code")
    return {
        **agreement.describe(),
        "tolerance": chosen.tolerance,
        "least_same_class": chosen.agreement,
        "images": len(bundle.samples.inputs),
        "source": bundle.samples.source,
        "read_by": (chosen.reader or "torch") if readable else f"our own code, as {chosen.reader} is not installed",
        "own_preprocessing": _measure_preprocessing(name, bundle, workspace) if readable else None,
        "packages": _list_versions("torch", *chosen.needs, chosen.reader),
        "files": describe_files(workspace, names),
        **chosen.details(bundle, workspace),
        "seconds": round(time.perf_counter() - start, 2),
    }


def _check(name: str, bundle: Bundle, workspace: Path) -> Agreement:
    """Return how nearly the files of a format agree with the run. Raises ValueError if that is not near enough."""
    chosen, samples = FORMATS[name], bundle.samples
    agreement = measure(samples.probabilities, chosen.predict(bundle, workspace))
    if agreement.difference <= chosen.tolerance and agreement.same >= chosen.agreement:
        return agreement
    raise ValueError(
        f"the file of formats=[{name}] does not predict as the run does, so nothing is written: on {samples.source}, "
        f"probabilities differ by up to {agreement.difference:.2g} (allowed: {chosen.tolerance:g}), and "
        f"{agreement.same:.1%} have the same class (at least {chosen.agreement:.1%})"
    )


def _measure_preprocessing(name: str, bundle: Bundle, workspace: Path) -> dict[str, float] | None:
    """Compare with pictures that the reader itself resizes and crops; None if it has no way of doing that."""
    preprocess = FORMATS[name].preprocess
    probabilities = None if preprocess is None else preprocess(bundle, workspace)
    return None if probabilities is None else measure(bundle.samples.probabilities, probabilities).describe()


def _list_versions(*packages: str) -> dict[str, str]:
    versions = {}
    for package in filter(None, packages):
        with contextlib.suppress(metadata.PackageNotFoundError):  # not installed, or by another name
            versions[package] = metadata.version(package)
    return versions


def _finish(
    bundle: Bundle,
    written: Mapping[str, Facts],
    destination: Destination,
    workspace: Path,
    interrupts: Interrupts,
) -> list[str]:
    """Write the record and the card, and move all files into the folder; return those that were edited, and kept."""
    formats = {**destination.formats, **written}
    record = {
        "weights": destination.weights,
        "best_epoch": bundle.run.number("best_epoch"),
        "formats": formats,
        "card": destination.card,
    }
    with destination.explained():
        card = write_card(bundle, {name: facts for name, facts in formats.items() if name in FORMATS}, workspace)
        kept = destination.find_edited(card)
        record["card"] = destination.card | describe_files(workspace, [name for name in card if name not in kept])
        write_json(workspace / PARITY, record)
    names = [name for facts in written.values() for name in facts["files"]]
    interrupts.defer = True  # so that all files arrive
    destination.take(workspace, [PARITY, *names, *(name for name in card if name not in kept)])
    interrupts.release()
    return kept


def _as_row(name: str, facts: Facts) -> tuple[str, ...]:
    size = sum(file["bytes"] for file in facts["files"].values())
    numbers = f"{facts['max_probability_difference']:.1e}", f"{facts['same_class']:.1%}", f"{facts['seconds']:.1f}"
    return name, facts["read_by"], format_bytes(size), str(facts["images"]), *numbers


def _report(folder: Path, written: Mapping[str, Facts], kept: Sequence[str]) -> None:
    """Print what was written, how nearly it agrees, and how it is used."""
    terminal.show_table(COLUMNS, [_as_row(name, facts) for name, facts in written.items()], right=COLUMNS[2:])
    for name, facts in written.items():
        if own := facts["own_preprocessing"]:
            terminal.say(
                f"{name}: with the resizing of {facts['read_by']}, max |Δp| {own['max_probability_difference']:.2g}, "
                f"{own['same_class']:.1%} same class"
            )
    if kept:
        verb = "is" if len(kept) == 1 else "are"
        terminal.say(f"{', '.join(kept)} {verb} not as an export wrote, and kept; what you delete is written again")
    shown = short_path(folder.absolute())
    quoted = json.dumps(shown, ensure_ascii=False)[1:-1]  # for a place between quotes in Python
    uses = [(name, FORMATS[name].use.format(folder=quoted)) for name in written if FORMATS[name].use]
    names = ", ".join([*(name for facts in written.values() for name in facts["files"]), PARITY])
    upload = ("publish", f"hf upload OWNER/NAME {shlex.quote(shown)}")
    terminal.say("")
    for name, text in [("written", f"{shown}: {names}"), *uses, upload]:
        terminal.say(f"{name:<11} {text}")
