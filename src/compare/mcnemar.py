"""Whether two models differ on the same test images by more than chance: McNemar's test, exact.

Q. McNemar, Note on the sampling error of the difference between correlated proportions or percentages, Psychometrika
12(2), 1947. T. G. Dietterich, Approximate statistical tests for comparing supervised classification learning
algorithms, Neural Computation 10(7), 1998, section 3.1: of the tests that need one training only, the one whose error
of the first kind is low. It is about two trained models; how far other seeds would fall apart it cannot know.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ..machine.disk import read_csv
from ..run.files import TEST_PREDICTIONS
from ..run.saved import SavedRun
from .choose import Entry

Answers = dict[str, tuple[str, bool]]  # image -> its true class, and whether it was recognized


@dataclass
class Comparison:
    """Two runs A and B on the same images: how many only one of them got right, and how probable that is by chance.

    p: two-sided, that of so uneven counts or more uneven ones, were each as probable; p_holm: adjusted for how many
    comparisons were made (S. Holm, Scandinavian Journal of Statistics 6(2), 1979).
    """

    entry: Entry
    only_a: int
    only_b: int
    accuracy_a: float
    accuracy_b: float
    p: float
    p_holm: float = 1.0


def compare_with_best(entries: Sequence[Entry]) -> tuple[list[Comparison], list[str]]:
    """Return the comparisons of the first run (A) with each other one (B), and a sentence where there is none."""
    best, *others = entries
    try:
        reference = read_answers(best.saved)
    except (OSError, ValueError) as error:
        return [], [
            f"No comparison by images: {best.label}, the best by validation accuracy, has {_explain(error)}. "
            f"{_suggest(best.saved)} compares the others."
        ]
    comparisons: list[Comparison] = []
    problems: dict[str, list[str]] = {}
    for entry in others:
        try:
            answers = read_answers(entry.saved)
        except (OSError, ValueError) as error:
            problems.setdefault(_explain(error), []).append(entry.label)
            continue
        if reason := _find_mismatch(reference, answers):
            problems.setdefault(reason, []).append(entry.label)
        else:
            comparisons.append(_compare(entry, reference, answers))
    for comparison, p in zip(comparisons, adjust([comparison.p for comparison in comparisons]), strict=True):
        comparison.p_holm = p
    return comparisons, [f"Not compared with {best.label}: {', '.join(who)}: {why}." for why, who in problems.items()]


def _suggest(run: SavedRun) -> str:
    return "run=[…] without it" if run.status == "finished" else "filter=status=finished"


def read_answers(run: SavedRun) -> Answers:
    """Read test/predictions.csv. Raises FileNotFoundError, or ValueError where it is damaged."""
    rows = read_csv(run.folder / TEST_PREDICTIONS)
    try:
        answers = {row["image"]: (row["class"], bool(int(row["correct"]))) for row in rows}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError("its columns are not image, class and correct") from error
    if not answers or len(answers) < len(rows):
        raise ValueError("it has no rows, or two of one image")
    return answers


def _explain(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"no {TEST_PREDICTIONS}, as runs have that are not at their end or older than that file"
    return f"a damaged {TEST_PREDICTIONS}: {error}"


def _find_mismatch(one: Answers, other: Answers) -> str:
    """Say why two runs were not tested alike; empty where they were."""
    if one.keys() != other.keys():
        return f"other test images, {len(one.keys() & other.keys()):,} of {len(one | other):,} in common"
    if any(one[image][0] != other[image][0] for image in one):
        return "the test images have other classes, as those of another data set or split"
    return ""


def _compare(entry: Entry, one: Answers, other: Answers) -> Comparison:
    pairs = [(one[image][1], other[image][1]) for image in one]
    only_a, only_b = pairs.count((True, False)), pairs.count((False, True))
    shares = [sum(column) / len(pairs) for column in zip(*pairs, strict=True)]
    return Comparison(entry, only_a, only_b, shares[0], shares[1], exact_p(only_a, only_b))


def exact_p(only_a: int, only_b: int) -> float:
    """Return the two-sided p of a fair coin that fell so unevenly, 1 where it was never tossed."""
    from scipy.stats import binomtest  # takes a second, and only who compares waits for it

    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def adjust(values: Sequence[float]) -> list[float]:
    """Return p-values adjusted after Holm: the smallest times their number, the next times one less, never falling."""
    adjusted, least = [0.0] * len(values), 0.0
    for done, position in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        least = max(least, min(1.0, (len(values) - done) * values[position]))
        adjusted[position] = least
    return adjusted
