"""A comparison of runs as HTML page, as Markdown, and for a terminal.

Names and values come from folders and configs of anybody: each kind of page escapes them its way.
"""

import base64
import math
import re
from collections.abc import Sequence
from html import escape

from clkd_core.distill.record.compare import ABSENT, Table, plain
from clkd_core.metrics.intervals import Interval
from clkd_core.report.layout.look import STYLE
from clkd_core.report.layout.plots import draw_whisker
from clkd_core.report.layout.tables import build_table, f1_cell

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_OWN_STYLE = """
.words td{text-align:left;white-space:normal;overflow-wrap:anywhere;min-width:6em}
.words td:has(svg){min-width:0}
.curves{width:100%;height:auto;display:block;border-radius:8px;background:#fff}
"""
_LONGEST_CELL = 48
"""Letters of a cell that a terminal shows."""
_MARKDOWN = re.compile(r"([\\|`*\[\]~$#!])|(?<![^\W_])(_)|(_)(?![^\W_])")
"""What Markdown would read as a sign; an underscore inside a word is none."""


def build_html(names: Sequence[str], tables: Sequence[Table], png: bytes) -> str:
    """One page that needs no network, no script and no other file.

    Args:
        names: of the runs.
        tables: from :func:`clkd_core.distill.record.compare.build_tables`.
        png: the curves.
    """
    title = escape(", ".join(names))
    picture = base64.b64encode(png).decode()
    curves = (
        "<section><h2>Curves</h2>"
        f'<img class="curves" alt="Curves of {title}" src="data:image/png;base64,{picture}">'
        "</section>"
    )
    first, *others = (_section(table) for table in tables)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{title} · CLKD Drive</title><style>{STYLE}{_OWN_STYLE}</style></head>"
        f'<body><header><p class="brand">CLKD Drive</p><h1>{len(names)} runs compared</h1>'
        f'<p class="meta">{title}</p></header><main>{first}{curves}{"".join(others)}</main>'
        "<footer><p>Made by <code>clkd compare</code>.</p></footer></body></html>\n"
    )


def build_markdown(names: Sequence[str], tables: Sequence[Table], picture: str) -> str:
    """The same as Markdown.

    Args:
        names: of the runs.
        tables: as for :func:`build_html`.
        picture: file name of the curves, beside the page.
    """
    lines = [f"# {', '.join(map(_markdown, names))}", "", f"![Curves]({picture})"]
    for table in tables:
        lines += ["", f"## {table.heading}"]
        lines += ["", table.words] if table.words else []
        if table.rows:
            lines += ["", _markdown_row(table.head), "|" + "---|" * len(table.head)]
            lines += [_markdown_row(row) for row in table.rows]
    return "\n".join(lines) + "\n"


def build_text(tables: Sequence[Table]) -> str:
    """The same for a terminal; long cells are cut, but for the last of a row."""
    blocks = []
    for table in tables:
        lines = [table.heading, *([f"  {table.words}"] if table.words else [])]
        grid = [[_words(cell) for cell in row] for row in (table.head, *table.rows)]
        grid = [[*map(_cut, row[:-1]), *row[-1:]] for row in grid]
        widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
        for row in grid if table.rows else ():
            cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
            lines.append("  " + "  ".join(cells).rstrip())
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _section(table: Table) -> str:
    words = f"<p>{escape(table.words)}</p>" if table.words else ""
    rows = [_html_row(row) for row in table.rows]
    head = [escape(plain(name)) for name in table.head]
    whiskers = any(isinstance(cell, Interval) for row in table.rows for cell in row)
    drawn = build_table([*head, ""] if whiskers else head, rows, "words") if rows else ""
    return f"<section><h2>{escape(table.heading)}</h2>{words}{drawn}</section>"


def _html_row(row: Sequence[str | Interval]) -> str:
    first, *others = row
    cells = "".join(f"<td>{_html_cell(cell)}</td>" for cell in others)
    whisker = "".join(
        f"<td>{draw_whisker(cell, '') if math.isfinite(cell.value) else ''}</td>"
        for cell in row
        if isinstance(cell, Interval)
    )
    return f'<tr><th scope="row">{escape(_words(first))}</th>{cells}{whisker}</tr>'


def _html_cell(cell: str | Interval) -> str:
    if isinstance(cell, Interval) and all(map(math.isfinite, (cell.value, cell.low, cell.high))):
        return f1_cell(cell)
    return escape(_words(cell))


def _words(cell: str | Interval) -> str:
    if isinstance(cell, str):
        return plain(cell)
    if not math.isfinite(cell.value):
        return ABSENT
    if not (math.isfinite(cell.low) and math.isfinite(cell.high)):
        return f"{cell.value:.3f}"
    return f"{cell.value:.3f} ({cell.low:.3f} to {cell.high:.3f})"


def _markdown_row(row: Sequence[str | Interval]) -> str:
    return "| " + " | ".join(_markdown(_words(cell)) for cell in row) + " |"


def _markdown(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1\2\3", escape(text, quote=False))


def _cut(text: str) -> str:
    if len(text) <= _LONGEST_CELL:
        return text
    return text[: _LONGEST_CELL - 1] + "\N{HORIZONTAL ELLIPSIS}"
