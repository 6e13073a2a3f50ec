"""Tables as text: Markdown and LaTeX, and the words that their page has too."""

from collections.abc import Mapping

from fedjax_sim.reports.paired import LEAST_PAIRS, Standing, standings
from fedjax_sim.reports.tables import FLAGS, Table, Value, decimals_of

RANKED = "Danger zones, the most successful first"
SETTINGS = "Options other than the rules' own defaults"
STANDINGS = "Who wins"
STANDINGS_HEAD = (
    "metric",
    "row",
    "better than",
    "not told apart",
    "worse than",
    "the best minus this",
)
ON_STANDINGS = (
    "Rows are compared in pairs of runs of one column and one seed; 95 % intervals by "
    f"the bootstrap. Told apart: {LEAST_PAIRS} pairs or more, and no 0 in the interval."
)
_NAMES = {
    **{name: name for name in ("seed", "lr", "alpha", "beta", "fakes")},
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


def corner(table: Table) -> str:
    """The heading of the rows."""
    return " / ".join(label(field) for field in table.row_fields)


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).removeprefix("-").isdigit()


def legend(table: Table) -> list[str]:
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
    columns = column_names(table)
    names = [label(value) for value in table.values]
    head = [corner(table), *(f"{c} {n}".strip() for c in columns for n in names)]
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
    lines += ["", *(f"* {_plain(line)}" for line in legend(table))]
    if table.deviations:
        lines += ["", "## Differences from the published protocol", ""]
        lines += [_pipe(["key", "published", "here", "cells"]), _pipe(["---"] * 4)]
        lines += [_pipe([str(part) for part in d]) for d in table.deviations]
    if found := standings(table):
        lines += ["", f"## {STANDINGS}", "", ON_STANDINGS, ""]
        lines += [_pipe(list(STANDINGS_HEAD)), _pipe(["---"] * 6)]
        lines += [_pipe(standing_cells(standing)) for standing in found]
    if table.ranked:
        lines += ["", f"## {RANKED}", ""]
        lines += [f"1. {_plain(line)}" for line in table.ranked]
    if table.settings:
        lines += ["", f"## {SETTINGS}", ""]
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
    columns = column_names(table)
    width = len(table.values)
    names = [label(value) for value in table.values]
    lines = [
        "% needs \\usepackage{booktabs,graphicx}",
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{_tex(table.title)}. {_tex(' '.join(legend(table)))}}}",
        "\\resizebox{\\linewidth}{!}{%",
        f"\\begin{{tabular}}{{l{'r' * (width * len(columns))}}}",
        "\\toprule",
    ]
    groups = (f"\\multicolumn{{{width}}}{{c}}{{{_tex(c)}}}" for c in columns)
    lines.append(" & ".join(["", *groups]) + r" \\")
    lines.append(
        " & ".join([_tex(corner(table)), *map(_tex, names * len(columns))]) + r" \\"
    )
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
