"""Tables as text: Markdown, LaTeX, and one HTML page that needs nothing else."""

import html
from base64 import b64encode
from collections.abc import Mapping, Sequence

from fedjax_sim.reports.paired import LEAST_PAIRS, Standing, standings
from fedjax_sim.reports.tables import FLAGS, Table, Value, decimals_of

_RANKED = "Danger zones, the most successful first"
_SETTINGS = "Options other than the rules' own defaults"
_STANDINGS = "Who wins"
_STANDINGS_HEAD = (
    "metric",
    "row",
    "better than",
    "not told apart",
    "worse than",
    "the best minus this",
)
_ON_STANDINGS = (
    "Rows are compared in pairs of runs of one column and one seed; 95 % intervals by "
    f"the bootstrap. Told apart: {LEAST_PAIRS} pairs or more, and no 0 in the interval."
)
_NAMES = {
    "mta": "MTA",
    "asr": "ASR",
    "asr_all": "ASR (all classes)",
    "mean_asr": "mean ASR",
    "mean_asr_all": "mean ASR (all classes)",
    "late_mta": "late MTA",
    "late_asr": "late ASR",
    "test_error_rate": "test error",
    "client.lr": "lr",
    "client.batch_size": "batch",
    "client.epochs": "epochs",
}


def label(name: str) -> str:
    """How a metric or a config key is called in a heading."""
    short = name.removesuffix(".name").replace(".", " ").replace("_", " ")
    return _NAMES.get(name, short.upper() if len(name) <= 5 else short)


def _measured(value: Value) -> str:
    """mean ± spread, or a dash."""
    if value.mean is None:
        return "-"
    digits = value.decimals
    spread = "" if value.spread is None else f" ± {value.spread:.{digits}f}"
    return f"{value.mean:.{digits}f}{spread}"


def _beside(value: Value) -> str:
    """The published value and what separates ours from it."""
    if value.published is None:
        return ""
    if value.difference is None:
        return f"{value.published:.2f}"
    return f"{value.published:.2f}, {value.difference:+.{value.decimals}f}"


def column_names(table: Table) -> list[str]:
    """A heading for each column."""
    return [
        ", ".join(
            f"{label(field)} {text}" if _is_number(text) else text
            for field, text in zip(table.column_fields, column, strict=True)
        )
        for column in table.columns
    ]


def _corner(table: Table) -> str:
    return " / ".join(label(field) for field in table.row_fields)


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).removeprefix("-").isdigit()


def _legend(table: Table) -> list[str]:
    """What the numbers and letters of a table mean, in short sentences."""
    values = [v for cell in table.cells.values() for v in cell.values.values()]
    counts = sorted({value.num_runs for value in values if value.num_runs})
    lines = []
    if counts == [1]:
        lines.append("Single runs.")
    elif counts:
        span = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        lines.append(f"Mean ± sample standard deviation over {span} runs.")
    if table.source:
        lines.append(
            "Beside or below it the published value, and measured minus published."
        )
        lines.append(f"Published: {table.source}")
    missing = sum(value.num_runs == 0 for value in values)
    if missing:
        lines.append(f"-: not measured: {missing} of {len(values)} numbers.")
    used = {letter for value in values for letter in value.flags}
    lines += [f"{key}: {text}." for key, text in FLAGS.items() if key in used]
    return lines


def standing_cells(standing: Standing) -> list[str]:
    """A line of the table of who wins."""
    behind = "-"
    if standing.behind is not None:
        mean, low, high, pairs = standing.behind
        noise = "" if standing.behind.clear else ", noise"
        digits = decimals_of(standing.metric)
        interval = f"[{low:+.{digits}f}, {high:+.{digits}f}]"
        behind = f"{mean:+.{digits}f} {interval}, {pairs} pairs{noise}"
    counts = (standing.better, standing.unclear, standing.worse)
    row = " / ".join(standing.row)
    return [label(standing.metric), row, *map(str, counts), behind]


def markdown(table: Table, figures: Mapping[str, bytes]) -> str:
    """The table as Markdown; figures by file name."""
    corner, columns = _corner(table), column_names(table)
    names = [label(value) for value in table.values]
    head = [corner, *(f"{c} {n}".strip() for c in columns for n in names)]
    lines = [f"# {_plain(table.title)}", "", _pipe(head), _pipe(["---"] * len(head))]
    for row in table.rows:
        cells = [" / ".join(row)]
        for value in _row_values(table, row):
            text = _measured(value) if value else ""
            if value and value.published is not None:
                text += f" ({_beside(value)})"
            if value and value.flags:
                text += f" [{value.flags}]"
            cells.append(text)
        lines.append(_pipe(cells))
    lines += ["", *(f"* {_plain(line)}" for line in _legend(table))]
    if table.deviations:
        lines += ["", "## Differences from the published protocol", ""]
        lines += [_pipe(["key", "published", "here", "cells"]), _pipe(["---"] * 4)]
        lines += [_pipe([str(part) for part in d]) for d in table.deviations]
    if found := standings(table):
        lines += ["", f"## {_STANDINGS}", "", _ON_STANDINGS, ""]
        lines += [_pipe(list(_STANDINGS_HEAD)), _pipe(["---"] * 6)]
        lines += [_pipe(standing_cells(standing)) for standing in found]
    if table.ranked:
        lines += ["", f"## {_RANKED}", ""]
        lines += [f"1. {_plain(line)}" for line in table.ranked]
    if table.settings:
        lines += ["", f"## {_SETTINGS}", ""]
        lines += [f"* {_plain(line)}" for line in table.settings]
    if table.notes:
        lines += ["", "## Notes on the published values", ""]
        lines += [f"* {_plain(note)}" for note in table.notes]
    if figures:
        lines += ["", *(f"![{name}](figures/{name}.svg)" for name in figures)]
    return "\n".join(lines) + "\n"


def _pipe(cells: list[str]) -> str:
    return "| " + " | ".join(_plain(cell).replace("|", "\\|") for cell in cells) + " |"


def _plain(text: str) -> str:
    """Text that Markdown takes for text: one line, no HTML."""
    return " ".join(text.replace("&", "&amp;").replace("<", "&lt;").split())


def _row_values(table: Table, row) -> list[Value | None]:
    """All numbers of a row; None where the table has no such cell."""
    found = []
    for column in table.columns:
        cell = table.cells.get((row, column))
        found += [cell.values[name] if cell else None for name in table.values]
    return found


_TEX = str.maketrans(
    {
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\\": r"\textbackslash{}",
        "±": r"$\pm$",
    }
)


def _tex(text: str) -> str:
    return text.translate(_TEX)


def latex(table: Table) -> str:
    """The table as LaTeX (packages booktabs and graphicx)."""
    corner, columns = _corner(table), column_names(table)
    width = len(table.values)
    names = [label(value) for value in table.values]
    lines = [
        "% needs \\usepackage{booktabs,graphicx}",
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{_tex(table.title)}. {_tex(' '.join(_legend(table)))}}}",
        "\\resizebox{\\linewidth}{!}{%",
        f"\\begin{{tabular}}{{l{'r' * (width * len(columns))}}}",
        "\\toprule",
    ]
    groups = (f"\\multicolumn{{{width}}}{{c}}{{{_tex(c)}}}" for c in columns)
    lines.append(" & ".join(["", *groups]) + r" \\")
    lines.append(" & ".join([_tex(corner), *map(_tex, names * len(columns))]) + r" \\")
    lines.append("\\midrule")
    for row in table.rows:
        cells = [_tex(" / ".join(row))]
        for value in _row_values(table, row):
            text = _tex(_measured(value)).replace("-", "--") if value else ""
            if value and value.published is not None:
                text += (
                    f" {{\\scriptsize ({_tex(_beside(value)).replace('-', '$-$')})}}"
                )
            if value and value.flags:
                text += f"\\textsuperscript{{{_tex(value.flags)}}}"
            cells.append(text)
        lines.append(" & ".join(cells) + r" \\")
    lines += ["\\bottomrule", "\\end{tabular}}", "\\end{table}"]
    return "\n".join(lines) + "\n"


_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #666; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --soft: #aaa; --bad: #ff8a80; } }
body { font: 16px/1.45 system-ui, sans-serif; margin: 0 auto; padding: 1rem;
  max-width: 80rem; }
h1 { font-size: 1.35rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line);
  text-align: right; white-space: nowrap; vertical-align: top; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0;
  background: Canvas; }
thead th { border-bottom: 2px solid var(--line); }
th.group { text-align: center; border-left: 1px solid var(--line); }
td.first, th.first { border-left: 1px solid var(--line); }
small { display: block; color: var(--soft); font-size: .78rem; }
sup { color: var(--bad); font-weight: 600; }
figure { margin: 1rem 0; overflow-x: auto; }
figure img { max-width: max(100%, 75rem); height: auto; background: #fff; }
li, p { overflow-wrap: anywhere; }
"""


def page(table: Table, figures: Mapping[str, bytes]) -> str:
    """The table and its figures (SVG) as one HTML file."""
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(table.title)}</title><style>{_STYLE}</style></head>",
        f"<body><h1>{html.escape(table.title)}</h1>",
        f'<div class="wide">{_html_table(table)}</div>',
        _html_list(_legend(table)),
    ]
    if table.deviations:
        head = ("key", "published", "here", "cells")
        parts += ["<h2>Differences from the published protocol</h2>"]
        parts += [_html_rows(head, [list(map(str, d)) for d in table.deviations])]
    if found := standings(table):
        rows = [standing_cells(standing) for standing in found]
        parts += [f"<h2>{_STANDINGS}</h2>", f"<p>{_ON_STANDINGS}</p>"]
        parts += [_html_rows(_STANDINGS_HEAD, rows)]
    if table.ranked:
        parts += [f"<h2>{_RANKED}</h2>", _html_list(table.ranked)]
    if table.settings:
        parts += [f"<h2>{_SETTINGS}</h2>", _html_list(table.settings)]
    if table.notes:
        parts += ["<h2>Notes on the published values</h2>", _html_list(table.notes)]
    for name, svg in figures.items():
        data = b64encode(svg).decode()
        parts.append(
            f'<figure><img alt="{html.escape(name)}" '
            f'src="data:image/svg+xml;base64,{data}"></figure>'
        )
    return "\n".join([*parts, "</body></html>"]) + "\n"


def _html_rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    line = lambda tag, cells: "".join(
        f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells
    )
    body = "".join(f"<tr>{line('td', cells)}</tr>" for cells in rows)
    return (
        f'<div class="wide"><table><thead><tr>{line("th", head)}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _html_list(lines) -> str:
    return f"<ul>{''.join(f'<li>{html.escape(line)}</li>' for line in lines)}</ul>"


def _html_table(table: Table) -> str:
    corner, columns = _corner(table), column_names(table)
    width = len(table.values)
    groups = "".join(
        f'<th class="group" colspan="{width}">{html.escape(c)}</th>' for c in columns
    )
    starts = [' class="first"' if i == 0 else "" for i in range(width)]
    names = "".join(
        f"<th{start}>{html.escape(label(value))}</th>"
        for _ in columns
        for start, value in zip(starts, table.values, strict=True)
    )
    lines = [
        f"<table><thead><tr><th></th>{groups}</tr>",
        f"<tr><th>{html.escape(corner)}</th>{names}</tr></thead><tbody>",
    ]
    for row in table.rows:
        cells = [f"<td>{html.escape(' / '.join(row))}</td>"]
        for i, value in enumerate(_row_values(table, row)):
            text = _html_value(value) if value else ""
            cells.append(f"<td{starts[i % width]}>{text}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return "\n".join([*lines, "</tbody></table>"])


def _html_value(value: Value) -> str:
    text = html.escape(_measured(value))
    if value.flags:
        meaning = "; ".join(FLAGS[letter] for letter in value.flags)
        text += f'<sup title="{html.escape(meaning)}">{html.escape(value.flags)}</sup>'
    if value.published is not None:
        text += f"<small>{html.escape(_beside(value))}</small>"
    return text
