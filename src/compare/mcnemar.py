"""Whether two models differ on the same test images by more than chance: McNemar's exact test.

Q. McNemar, Note on the sampling error of the difference between correlated proportions or percentages, Psychometrika
12(2), 1947. T. G. Dietterich, Approximate statistical tests for comparing supervised classification learning
algorithms, Neural Computation 10(7), 1998, section 3.1: among the tests that need a single training run, this one has
a low type I error. It compares two trained models and cannot know how much other seeds would differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ..data.names import normalize
from ..machine.disk import read_csv
from ..run.files import TEST_PREDICTIONS
from ..run.saved import SavedRun
from .choose import Entry

Answers = dict[str, tuple[str, bool]]  # image -> its true class, and whether the prediction was correct


@dataclass
class Comparison:
    """Two runs A and B on the same images: how many only one of them got right, and the p-value of that.

    p: two-sided, the probability of counts at least as uneven if both were equally likely; p_holm: adjusted for the
    number of comparisons (S. Holm, Scandinavian Journal of Statistics 6(2), 1979).
    """

    entry: Entry
    only_a: int
    only_b: int
    accuracy_a: float
    accuracy_b: float
    p: float
    p_holm: float = 1.0


def compare_with_best(entries: Sequence[Entry]) -> tuple[list[Comparison], list[str]]:
    """Return the comparisons of the first run (A) with each other run (B), and a sentence for each that is missing."""
    best, *others = entries
    try:
        reference = read_answers(best.saved)
    except (OSError, ValueError) as error:
        return [], [
            f"Not compared image by image: {best.label}, the best run by validation accuracy, has {_explain(error)}. "
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
    """Read test/predictions.csv. Raises FileNotFoundError, or ValueError if it is damaged."""
    rows = read_csv(run.folder / TEST_PREDICTIONS)
    try:
        answers = {normalize(row["image"]): (normalize(row["class"]), bool(int(row["correct"]))) for row in rows}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError("its columns are not image, class and correct") from error
    if not answers or len(answers) < len(rows):
        raise ValueError("it has no rows, or several for one image")
    return answers


def _explain(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"no {TEST_PREDICTIONS} (it has not finished, or is older than this file)"
    return f"a damaged {TEST_PREDICTIONS}: {error}"


def _find_mismatch(one: Answers, other: Answers) -> str:
    """Return why two runs cannot be compared, an empty text if they can."""
    if one.keys() != other.keys():
        return f"different test images, {len(one.keys() & other.keys()):,} of {len(one | other):,} in common"
    if any(one[image][0] != other[image][0] for image in one):
        return "the test images have different classes, as in another data set or split"
    return ""


def _compare(entry: Entry, one: Answers, other: Answers) -> Comparison:
    pairs = [(one[image][1], other[image][1]) for image in one]
    only_a, only_b = pairs.count((True, False)), pairs.count((False, True))
    shares = [sum(column) / len(pairs) for column in zip(*pairs, strict=True)]
    return Comparison(entry, only_a, only_b, shares[0], shares[1], exact_p(only_a, only_b))


def exact_p(only_a: int, only_b: int) -> float:
    """Return the two-sided p of these counts for a fair coin, 1 if it was never tossed."""
    from scipy.stats import binomtest  # importing it takes a second, which only a comparison needs

    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def adjust(values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values: the smallest times their number, the next times one less, never decreasing."""
    adjusted, least = [0.0] * len(values), 0.0
    for done, position in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        least = max(least, min(1.0, (len(values) - done) * values[position]))
        adjusted[position] = least
    return adjusted
