"""A comparison as it is read: in the terminal, and as comparison.md, comparison.csv, comparison.png."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .. import terminal
from ..machine.disk import write_csv, write_text
from ..plots.curves import plot_comparison
from .choose import Entry
from .mcnemar import Comparison
from .tables import Table, find_differences

MARKDOWN, CSV, PICTURE = "comparison.md", "comparison.csv", "comparison.png"
MAX_COLUMNS = 12  # of a table in Markdown, where the runs are its columns
MAX_CURVES = 10


@dataclass
class Section:
    """A heading with sentences and a table; turned: what heads the first column when rows and columns change places."""

    heading: str
    sentences: list[str] = field(default_factory=list)
    table: Table | None = None
    turned: str | None = None


def show(sections: Sequence[Section]) -> None:
    """Print the sections; a table that is too wide is turned where it may be, else shown in parts."""
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
            terminal.show_table(part.columns, part.rows, right=sorted(part.right))


def split_columns(table: Table) -> list[Table]:
    """Return the table in parts as wide as the terminal, the first column again in each, folded where it is long."""
    parts: list[Table] = []
    start = 1
    while start < len(table.columns):
        end = start + 1
        while end < len(table.columns) and terminal.fits(*_take(table, start, end + 1, terminal.console.width // 3)):
            end += 1
        parts.append(Table(*_take(table, start, end), table.right))
        start = end
    return parts


def _take(table: Table, start: int, end: int, longest: int | None = None) -> tuple[list[str], list[list[str]]]:
    columns, *rows = ([cells[0][:longest], *cells[start:end]] for cells in (table.columns, *table.rows))
    return columns, rows


def format_markdown(title: str, sections: Sequence[Section]) -> str:
    """Return the sections as Markdown, with the picture at the end."""
    blocks = [f"# {title}"]
    for section in sections:
        blocks += [f"## {section.heading}", *section.sentences]
        table = section.table
        if table is not None:
            turned = section.turned and len(table.columns) > MAX_COLUMNS + 1
            blocks.append(_format_table(table.turn(str(section.turned)) if turned else table))
    blocks.append(f"![validation of the runs, epoch by epoch]({PICTURE})")
    return "\n\n".join(blocks) + "\n"


def _format_table(table: Table) -> str:
    marks = ["---:" if name in table.right else "---" for name in table.columns]
    lines = [[_escape(cell) for cell in row] for row in (table.columns, *table.rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], marks, *lines[1:]])


def _escape(cell: str) -> str:
    """Keep a cell from ending its column or being read as markup: folders may be called `a|b` or `*`."""
    for character in "\\|*_`<[":
        cell = cell.replace(character, f"\\{character}")
    return cell.replace("\n", " ")


def write(folder: Path, title: str, sections: Sequence[Section], entries: Sequence[Entry], rows: list[dict]) -> None:
    """Write the three files, each whole: the report, a row per run, the curves of the best ones."""
    folder.mkdir(parents=True, exist_ok=True)
    plot_comparison({entry.label: entry.history for entry in entries[:MAX_CURVES]}, folder / PICTURE)
    write_csv(folder / CSV, rows)
    write_text(folder / MARKDOWN, format_markdown(title, sections))


def list_rows(entries: Sequence[Entry], comparisons: Sequence[Comparison]) -> list[dict]:
    """Return a row per run of plain numbers: what it reached, how it compares with the first, what it was set to."""
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
