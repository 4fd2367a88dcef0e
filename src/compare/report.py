"""A comparison as people read it: in the terminal, and as comparison.md, comparison.csv, comparison.png."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .. import terminal
from ..machine.disk import write_csv, write_text
from ..plots.curves import plot_comparison
from ..tables import Table, escape_markdown
from .choose import Entry
from .mcnemar import Comparison
from .tables import find_differences

MARKDOWN, CSV, PICTURE = "comparison.md", "comparison.csv", "comparison.png"
MAX_COLUMNS = 12  # of a Markdown table with a column per run; with more runs it gets a row per run
MAX_CURVES = 10


@dataclass
class Section:
    """A heading with sentences and a table; turned: the first heading if the table is turned, None: it may not be."""

    heading: str
    sentences: list[str] = field(default_factory=list)
    table: Table | None = None
    turned: str | None = None


def show(sections: Sequence[Section]) -> None:
    """Print the sections; a table that is too wide is turned if it may be, otherwise split."""
    for section in sections:
        terminal.show_heading(section.heading)
        for sentence in section.sentences:
            terminal.say(sentence)
        table = section.table
        if table is None:
            continue
        if section.turned and not terminal.fits(table.columns, table.rows):
            turned = table.turn(section.turned)
            table = turned if len(turned.columns) < len(table.columns) else table
        for part in split_columns(table):
            terminal.show_table(part.columns, part.rows, part.right)


def split_columns(table: Table) -> list[Table]:
    """Return parts of the table that fit the terminal, each with the first column, which is folded if it is long."""
    parts: list[Table] = []
    positions = [0]
    for position in range(1, len(table.columns)):
        if len(positions) > 1 and not _fits(table.pick([*positions, position])):
            parts.append(table.pick(positions))
            positions = [0]
        positions.append(position)
    return [*parts, table.pick(positions)]


def _fits(table: Table) -> bool:
    columns, *rows = ([first[: terminal.console.width // 3], *rest] for first, *rest in (table.columns, *table.rows))
    return terminal.fits(columns, rows)


def format_markdown(title: str, sections: Sequence[Section]) -> str:
    """Return the sections as Markdown, with the picture at the end."""
    blocks = [f"# {title}"]
    for section in sections:
        blocks += [f"## {section.heading}", *map(escape_markdown, section.sentences)]
        table = section.table
        if table is not None and section.turned and len(table.columns) > MAX_COLUMNS + 1:
            table = table.turn(section.turned)
        blocks += [table.to_markdown()] if table else []
    blocks.append(f"![validation curves of the runs]({PICTURE})")
    return "\n\n".join(blocks) + "\n"


def write(folder: Path, title: str, sections: Sequence[Section], entries: Sequence[Entry], rows: list[dict]) -> None:
    """Write the three files: the report, a row per run, the curves of the best runs."""
    folder.mkdir(parents=True, exist_ok=True)
    plot_comparison({entry.label: entry.history for entry in entries[:MAX_CURVES]}, folder / PICTURE)
    write_csv(folder / CSV, rows)
    write_text(folder / MARKDOWN, format_markdown(title, sections))


def list_rows(entries: Sequence[Entry], comparisons: Sequence[Comparison]) -> list[dict]:
    """Return a row per run with plain numbers: its results, its comparison with the best run, its settings."""
    tests = {comparison.entry.label: comparison for comparison in comparisons}
    differences = find_differences(entries)
    rows = []
    for number, entry in enumerate(entries):
        row = {"run": entry.label, "folder": str(entry.saved.folder), **entry.numbers}
        test = tests.get(entry.label)
        for key in ("only_a", "only_b", "p", "p_holm") if comparisons else ():
            row[key] = getattr(test, key, None)
        rows.append(row | {key: values[number] for key, values in differences.items()})
    return rows
