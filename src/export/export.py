"""The story of an export: a run's weights in the formats of other programs, each checked before anything is left."""

import contextlib
import hashlib
import json
import os
import shlex
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .. import terminal
from ..config.inference import InferenceConfig
from ..machine.disk import short_path
from ..machine.memory import format_bytes
from ..run.best import load_best
from ..run.claim import refuse_linked_path
from ..run.files import BEST, EXPORTS, PARITY
from ..run.messages import is_full_disk
from ..run.saved import SavedRun, choose_run, name_others
from ..run.weights import BEST_FACTS, read_best
from ..signals import Interrupts
from .bundle import Bundle
from .card import write_card
from .choose import ALL, check_formats, choose_formats
from .destination import Destination, describe_files
from .formats import FORMATS
from .parity import LOGIT_TOLERANCE, Agreement, measure
from .samples import collect_samples
from .web_runtime import prepare_runtime

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
    if config.output is None:
        refuse_linked_path(run.folder, EXPORTS)
    folder = run.folder / EXPORTS if config.output is None else Path(os.path.expanduser(config.output))
    content = (run.folder / BEST).read_bytes()  # once: a run that goes on replaces the file
    destination = Destination(folder, hashlib.sha256(content).hexdigest())
    with Interrupts() as interrupts, destination.open_workspace() as workspace:
        runtime = config.web_runtime
        if "web" in config.formats:  # before all that takes minutes
            runtime = prepare_runtime(runtime, workspace)
        bundle = replace(open_bundle(run, content), web_runtime=runtime)
        names, left_out = choose_formats(config.formats, bundle)
        destination.refuse_other_weights(names)
        _announce(bundle, left_out)
        written = _write_all(names, ALL in config.formats, bundle, destination, workspace)
        kept = _finish(bundle, written, destination, workspace, interrupts)
    _report(destination.folder, written, kept)


def _write_all(
    names: Sequence[str], lenient: bool, bundle: Bundle, destination: Destination, workspace: Path
) -> dict[str, Facts]:
    """Return what is known of each format that was written; lenient: leave those out that fail, unless all do."""
    written, reason = dict[str, Facts](), ""
    with terminal.show_progress(len(names), "exporting") as advance:
        for name in names:
            try:
                written[name] = _write(name, bundle, destination, workspace)
            except Exception as error:  # of packages that are not ours, too
                cause = error.__cause__ or error
                if not lenient or (isinstance(cause, OSError) and is_full_disk(cause)):
                    raise
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                terminal.warn(f"left out    {name}: {reason}")
            advance(1)
    if not written:
        raise ValueError(f"no format could be written; {names[-1]}: {reason}" if names else "no format can be written")
    destination.refuse_other_weights(list(written))  # those left out may be there from other weights
    return written


def _announce(bundle: Bundle, left_out: Mapping[str, str]) -> None:
    run, epoch, count = bundle.run, bundle.run.number("best_epoch"), len(bundle.classes)
    weights = "" if epoch is None else f", weights of epoch {epoch:.0f}"
    classes = f"{count:,} class{'' if count == 1 else 'es'}"
    terminal.say(f"run         {short_path(run.folder.absolute())}: {run.dataset}, {classes}{weights}")
    terminal.say(f"checked     on {bundle.samples.source}")
    for name, reason in left_out.items():
        terminal.say(f"left out    {name}: {reason}")


def open_bundle(run: SavedRun, content: bytes | None = None) -> Bundle:
    """Return a run with its model and the images on which exports are checked. Raises ValueError if it is damaged.

    content: of the file of weights, which may have been replaced since.
    """
    config, classes, preprocessing = run.load()
    content = (run.folder / BEST).read_bytes() if content is None else content
    model = load_best(run.folder, config.model, content).requires_grad_(False)
    run = replace(run, facts={**run.facts, **_read_facts(content)})
    samples = collect_samples(run, config, preprocessing, model)
    return Bundle(run, config, model, classes, preprocessing, samples)


def _read_facts(content: bytes) -> dict[str, Any]:
    """Return what weights tell of themselves, by the names of status.json; the status may be of an earlier epoch."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, Path(BEST).name)
        path.write_bytes(content)
        best = read_best(path)
    return {name: best[key] for name, key in BEST_FACTS.items() if best}


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
    near = agreement.difference <= chosen.tolerance and agreement.same >= chosen.agreement
    near = near and agreement.log_difference <= chosen.log_tolerance
    if samples.logits is not None and chosen.logits is not None:
        difference = (samples.logits - chosen.logits(bundle, workspace)).abs().max().item()
        agreement = replace(agreement, logit_difference=difference)
        near = near and difference <= LOGIT_TOLERANCE * max(1.0, samples.logits.abs().max().item())
    if near:
        return agreement
    raise ValueError(
        f"the file of formats=[{name}] does not predict as the run does, so nothing of it is written: on "
        f"{samples.source}, probabilities differ by up to {agreement.difference:.2g} (allowed: {chosen.tolerance:g}), "
        f"their logarithms by {agreement.log_difference:.2g}{agreement.describe_logits()}, and {agreement.same:.1%} "
        f"have the same class (at least {chosen.agreement:.1%})"
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
    """Write the card, and move all files into the folder; return those that were edited, and kept."""
    formats = {**destination.formats, **written}
    record: dict[str, Any] = {"weights": destination.weights, "best_epoch": bundle.run.number("best_epoch")}
    with destination.explained():
        card = write_card(bundle, {name: facts for name, facts in formats.items() if name in FORMATS}, workspace)
        kept = destination.find_edited(card)
        record["card"] = destination.card | describe_files(workspace, [name for name in card if name not in kept])
    names = [name for facts in written.values() for name in facts["files"]]
    interrupts.defer = True  # so that all files arrive
    destination.take(workspace, [*(name for name in card if name not in kept), *names], written, record)
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
