"""What a card says about where the model may be wrong: from the log's report on the data, and the test results."""

from collections.abc import Sequence
from typing import Any

from ..run.validate import as_number
from ..tables import escape_markdown
from .bundle import Bundle
from .card_facts import Images, read_copies, read_images, read_log

FEW_PER_CLASS, FEW_TESTED = 100, 500  # images
IMBALANCE = 3  # times as many images in the largest class as in the smallest
LOW, LISTED = 0.8, 5  # recall of a class that is named, and how many are


def list_limits(bundle: Bundle, tested: dict[str, Any], classes: Sequence[tuple[str, dict[str, float]]]) -> list[str]:
    """Return sentences for people who consider using the model, in Markdown. classes: names, escaped, and results."""
    lines = read_log(bundle.run)
    found = read_images(lines)
    sentences = [f"{sentence}, which makes the results look better than they are." for sentence in read_copies(lines)]
    sentences += _judge_tests(tested, classes)
    sentences += _judge_images(bundle, found) if found else []
    if bundle.run.status not in ("finished", "unknown"):
        sentences.insert(0, f"The run had not been finished when it was exported (it was {bundle.run.status}).")
    return [
        *sentences,
        "The test images come from the same source as the training images. Other cameras, light, and places "
        "were not tested.",
        "It always answers with one of its classes, for images of anything. Its probabilities were not calibrated.",
    ]


def _judge_tests(tested: dict[str, Any], classes: Sequence[tuple[str, dict[str, float]]]) -> list[str]:
    count = as_number(tested.get("images"))
    low, high = (as_number(tested.get(key)) for key in ("accuracy_low", "accuracy_high"))
    sentences = []
    if count and count < FEW_TESTED and low is not None and high is not None:
        sentences.append(
            f"Only {count:,.0f} test images: on others of this kind, the accuracy may be anywhere from {low:.1%} to "
            f"{high:.1%} (95 % interval)."
        )
    weak = sorted((row["recall"], name, row["support"]) for name, row in classes if row["support"])[:LISTED]
    named = [f"{name} ({recall:.0%} of {support:,.0f})" for recall, name, support in weak if recall < LOW]
    if named:
        sentences.append(f"Classes of which it finds the fewest test images: {', '.join(named)}.")
    missing = [name for name, row in classes if not row["support"]]
    if missing:
        sentences.append(f"No test image of {', '.join(missing[:LISTED])}{' and others' * (len(missing) > LISTED)}.")
    return sentences


def _judge_images(bundle: Bundle, found: Images) -> list[str]:
    fewest, most = found.per_class
    height, width = bundle.preprocessing.size
    sentences = []
    if fewest < FEW_PER_CLASS:
        where = "each class has" if fewest == most else "the smallest class has"
        sentences.append(f"Few training images: {where} {fewest:,}.")
    if most >= IMBALANCE * max(1, fewest):
        weights = bundle.config.training.class_weights
        weighed = f"training.class_weights={weights}" if weights else "they were not weighted"
        sentences.append(f"Imbalanced classes: {fewest:,} to {most:,} training images; {weighed}.")
    if found.width[0] < width or found.height[0] < height:
        sides = f"the images have {_span(found.width)} × {_span(found.height)} px"
        sentences.append(f"Images smaller than the model's {width} × {height} px were enlarged: {sides}.")
    sentences.append(f"It was trained on images of these kinds only (Pillow's modes): {escape_markdown(found.modes)}.")
    return sentences


def _span(pair: tuple[int, int]) -> str:
    return f"{pair[0]:,}" if pair[0] == pair[1] else f"{pair[0]:,} to {pair[1]:,}"
