"""The story of a comparison: which settings differ, the results, the means over seeds, the test images one by one."""

import os
from collections.abc import Sequence
from pathlib import Path

from .. import terminal
from ..config.inference import InferenceConfig
from ..machine.disk import read_object, short_path
from ..run.files import ENVIRONMENT
from ..tables import Table, format_percent
from . import report
from .choose import Entry, choose_entries, join
from .mcnemar import Comparison, compare_with_best
from .report import MAX_CURVES, Section
from .tables import list_differences, list_groups, list_numbers


def compare_runs(config: InferenceConfig) -> None:
    """Compare the runs that `run` and `filter` choose: print tables, and write them and a picture to `output`.

    Raises ValueError if there are fewer than two.
    """
    entries, left_out = choose_entries(config)
    comparisons, problems = compare_with_best(entries)
    sections = describe_comparison(entries, left_out, comparisons, problems)
    report.show(sections)
    folder = Path(os.path.expanduser(config.output or "comparison"))
    title = f"Comparison of {len(entries)} runs"
    report.write(folder, title, sections, entries, report.list_rows(entries, comparisons))
    names = ", ".join((report.MARKDOWN, report.CSV, report.PICTURE))
    best = f" (of the {MAX_CURVES} best)" if len(entries) > MAX_CURVES else ""
    terminal.show_pairs([("written", f"{short_path(folder.absolute())}: {names}{best}")])


def describe_comparison(
    entries: Sequence[Entry], left_out: Sequence[str], comparisons: Sequence[Comparison], problems: Sequence[str]
) -> list[Section]:
    """Return what is said about the runs; comparisons, problems: what `compare_with_best` has found."""
    return [
        _describe_differences(entries),
        _describe_numbers(entries, left_out),
        *_describe_groups(entries),
        _describe_comparisons(entries[0], comparisons, problems),
    ]


def _describe_differences(entries: Sequence[Entry]) -> Section:
    table = list_differences(entries)
    sentences = [] if table else ["The configurations are equal."]
    return Section("Differences in the configurations", sentences, table, turned="run")


def _describe_numbers(entries: Sequence[Entry], left_out: Sequence[str]) -> Section:
    sentences = ["Sorted by validation accuracy, the best run first. images/s is the median over the epochs."]
    if len(entries) > MAX_CURVES:
        sentences.append(f"{report.PICTURE} shows the {MAX_CURVES} best of {len(entries)} runs.")
    if warning := _warn_of_other_images(entries):
        sentences.append(warning)
    if left_out:
        sentences.append(f"Left out: {join(left_out)}.")
    return Section("Results", sentences, list_numbers(entries))


def _warn_of_other_images(entries: Sequence[Entry]) -> str:
    """Return a sentence if the runs did not use the same images, otherwise an empty text."""
    sources = {entry.saved.source for entry in entries}
    if len(sources) > 1:
        names = join(sorted({entry.saved.dataset for entry in entries}))
        return f"These runs are on {len(sources)} data sets ({names}), so their accuracies do not show which is better."
    prints = {read_object(entry.saved.folder / ENVIRONMENT).get("data_fingerprint") for entry in entries}
    if len(prints - {None}) > 1:
        return "Not all runs used the same images in each split; small differences in accuracy may come from that."
    return ""


def _describe_groups(entries: Sequence[Entry]) -> list[Section]:
    table = list_groups(entries)
    sentence = "Finished runs that differ only in their seed: mean ± sample standard deviation (number of runs)."
    return [Section("Over seeds", [sentence], table)] if table else []


def _describe_comparisons(best: Entry, comparisons: Sequence[Comparison], problems: Sequence[str]) -> Section:
    sentences = list(problems)
    table = None
    if comparisons:
        sentences.insert(
            0,
            f"McNemar's exact test on the test images. A: {best.label}, the best run by validation accuracy; B: each "
            "of the other runs. p is two-sided; p (Holm) is adjusted for the number of comparisons. The test compares "
            "these trained models and says nothing about other seeds (Dietterich 1998).",
        )
        headings = ["only A right", "only B right", "acc A", "acc B", "p", "p (Holm)"]
        table = Table(["run B", *headings], [_describe_pair(test) for test in comparisons], right=headings)
    return Section("Image by image", sentences, table)


def _describe_pair(test: Comparison) -> list[str]:
    accuracies = [format_percent(accuracy) for accuracy in (test.accuracy_a, test.accuracy_b)]
    return [test.entry.label, str(test.only_a), str(test.only_b), *accuracies, f"{test.p:.2g}", f"{test.p_holm:.2g}"]
