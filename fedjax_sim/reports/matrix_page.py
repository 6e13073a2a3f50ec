"""A matrix as a page of heat maps, and as Markdown."""

import html
from collections.abc import Sequence

from fedjax_sim.reports.matrix import AS_IT_IS, Entry, Map, Spread

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #666; --bad: #d23b2f; }
@media (prefers-color-scheme: dark) { :root { --soft: #aaa; --bad: #e0564b; } }
body { font: 16px/1.45 system-ui, sans-serif; margin: 0; padding: 1rem; }
h1 { font-size: 1.35rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
p, ul { max-width: 60rem; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .8rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .35rem; border: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
thead th { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left;
  cursor: pointer; font-weight: 600; border: 0; }
thead th:first-child { writing-mode: horizontal-tb; transform: none;
  vertical-align: bottom; }
thead th[aria-sort] { text-decoration: underline; }
th:first-child { text-align: left; position: sticky; left: 0; background: Canvas;
  font-weight: 400; z-index: 1; }
tr.rule th, tr.rule td { color: var(--soft); }
tr.last th, tr.last td { border-bottom: 2px solid currentColor; }
td.harm { background: color-mix(in srgb, var(--bad) calc(var(--h) * 1%), Canvas); }
td a { color: inherit; text-decoration: none; }
td a:hover, td a:focus { text-decoration: underline; }
td.not { color: var(--soft); text-align: center; }
small { color: var(--soft); }
"""
# A click on a rule sorts the attacks by what they do to it, again the other way round.
_SCRIPT = """
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[1], heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, i) => head.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") === "descending";
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const value = row => i ? parseFloat(row.cells[i].dataset.v ?? "-1000")
                           : -parseInt(row.dataset.place);
    const rows = [...body.rows].sort((a, b) => value(b) - value(a));
    if (up) rows.reverse();
    body.append(...rows);
  }));
}
"""
_SCRIPT += """
document.querySelector("select").addEventListener("change", event => {
  const mta = event.target.value === "mta";
  for (const cell of document.querySelectorAll("td.harm")) {
    const shown = parseFloat(mta ? cell.dataset.m : cell.dataset.v);
    const share = Math.min(Math.max(mta ? 100 - shown : shown, 0), 100);
    cell.querySelector("a").textContent = shown.toFixed(1);
    cell.style.setProperty("--h", share.toFixed(0));
  }
});
"""
_CHOICE = (
    '<p><label>Shown: <select><option value="harm">harm (ASR, or lost accuracy)'
    '</option><option value="mta">MTA</option></select></label></p>'
)
_LEGEND = (
    "A cell is the attack success rate (of attacks with a target) or the accuracy lost "
    "against the same seeds without attack, in percent, mean of the seeds; its colour "
    "is the same number. The number leads to the first run, the digits behind it to "
    "the others. x cannot go together, ! failed, · not run yet: the reason is in the "
    "cell's title. A click on a rule sorts the attacks by it."
)


def page(title: str, found: Sequence[Map], results: str) -> str:
    """Returns the HTML page.

    Args:
      title: of the matrix.
      found: of `reports.matrix.maps`.
      results: the folder of the runs, relative to the page.
    """
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>",
        f"<body><h1>{html.escape(title)}</h1><p>{_LEGEND}</p>{_CHOICE}",
    ]
    for one in found:
        parts += [f"<h2>{html.escape(one.title)}</h2>", f"<p>{_count(one)}</p>"]
        parts.append(f'<div class="wide">{_table(one, results)}</div>')
        parts.append(_reasons(one))
    return "\n".join([*parts, f"<script>{_SCRIPT}</script></body></html>"]) + "\n"


def _count(one: Map) -> str:
    every = one.entries.values()
    done = sum(len(entry.runs) for entry in every)
    wanted = sum(entry.expected for entry in every)
    never = sum(entry.refused is not None for entry in every)
    return (
        f"{len(one.attacks)} attacks, {len(one.rules)} rules; {done} of {wanted} runs "
        f"have finished; {never} cells cannot be."
    )


def _reasons(one: Map) -> str:
    reasons: dict[str, int] = {}
    for entry in one.entries.values():
        reason = entry.refused or entry.failed
        if reason is not None:
            reasons[reason] = reasons.get(reason, 0) + 1
    items = "".join(
        f"<li>{number} cells: {html.escape(reason)}</li>"
        for reason, number in reasons.items()
    )
    return f"<ul>{items}</ul>" if items else ""


def _table(one: Map, results: str) -> str:
    heads = "".join(f"<th>{html.escape(rule)}</th>" for rule in one.rules)
    lines = [f"<table><thead><tr><th>attack</th>{heads}</tr></thead><tbody>"]
    for i, (name, cells) in enumerate(_rule_rows(one)):
        last = " last" if i == 2 else ""
        own = "".join(f"<td>{cell}</td>" for cell in cells)
        lines.append(f'<tr class="rule{last}"><th>{name}</th>{own}</tr>')
    lines.append("</tbody><tbody>")
    for place, (attack, adapt) in enumerate(one.attacks):
        cells = [
            _cell(one.entries.get((attack, adapt, rule)), results) for rule in one.rules
        ]
        name = html.escape(attack_name(attack, adapt))
        lines.append(f'<tr data-place="{place}"><th>{name}</th>{"".join(cells)}</tr>')
    return "\n".join([*lines, "</tbody></table>"])


def attack_name(attack: str, adapt: str) -> str:
    """An attack, and whether it is adapted."""
    return attack if adapt == AS_IT_IS else f"{attack} + {adapt}"


def _rule_rows(one: Map) -> list[tuple[str, list[str]]]:
    """What a rule costs where nobody attacks."""
    benign = [one.benign(rule) for rule in one.rules]
    less = f"... less than with {html.escape(one.first)}"
    return [
        ("MTA without attack", [_text(own.mta if own else None) for own in benign]),
        (less, [_number(one.cost(rule)) for rule in one.rules]),
        (
            "server, ms a round",
            [_number(own.server_ms if own else None, 2) for own in benign],
        ),
    ]


def _cell(entry: Entry | None, results: str) -> str:
    if entry is None:
        return '<td class="not">·</td>'
    if entry.harm is None:
        reason = entry.refused or entry.failed or "not run yet"
        sign = "x" if entry.refused else "!" if entry.failed else "·"
        return f'<td class="not" title="{html.escape(reason)}">{sign}</td>'
    harm = entry.harm.mean
    links = [f"{results}/{html.escape(run)}/" for run in entry.runs]
    others = "".join(f' <a href="{x}">{i}</a>' for i, x in enumerate(links[1:], 2))
    others = f"<small>{others}</small>" if others else ""
    mta = entry.mta.mean if entry.mta is not None else float("nan")
    share = min(max(harm, 0), 100)
    return (
        f'<td class="harm" data-v="{harm:.3f}" data-m="{mta:.3f}" '
        f'style="--h:{share:.0f}" title="{html.escape(_title(entry))}">'
        f'<a href="{links[0]}">{harm:.1f}</a>{others}</td>'
    )


def _title(entry: Entry) -> str:
    labels = entry.labels
    head = f"{attack_name(labels['attack'], labels['adapt'])}, {labels['defense']}: "
    parts = [f"MTA {_text(entry.mta)}", f"lost {_text(entry.lost)}"]
    if entry.asr is not None:
        parts.insert(1, f"ASR {_text(entry.asr)}")
    if entry.factor is not None:
        parts.append(f"factor {entry.factor:.2f}")
    return head + ", ".join(parts) + _seeds(entry)


def _seeds(entry: Entry | None) -> str:
    """How many seeds a cell's harm is the mean of, where it is not all of them."""
    if entry is None or entry.harm is None or entry.harm.seeds == entry.expected:
        return ""
    return f" ({entry.harm.seeds} of {entry.expected} seeds)"


def _text(value: Spread | None) -> str:
    if value is None:
        return "-"
    spread = "" if value.std is None else f" ± {value.std:.1f}"
    return f"{value.mean:.1f}{spread}"


def _number(value: float | None, decimals: int = 1) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"


def markdown(title: str, found: Sequence[Map]) -> str:
    """A line for each rule: what it costs, and the worst that was done to it.

    Rules and maps without a number are left out; how many they are is said.
    """
    lines = [f"# {title}", ""]
    empty = []
    for one in found:
        shown = {rule: cells for rule in one.rules if (cells := _line(one, rule))}
        if not shown:
            empty.append(one.title)
            continue
        lines += [
            f"## {one.title}",
            "",
            _count(one),
            "",
            f"| rule | MTA without attack | less than {one.first} | server ms | "
            "highest ASR | by | most lost | by |",
            "| --- " * 8 + "|",
            *(f"| {' | '.join((rule, *cells))} |" for rule, cells in shown.items()),
            "",
        ]
        if len(shown) < len(one.rules):
            without = f"{len(one.rules) - len(shown)} of {len(one.rules)} rules"
            lines += [f"{without} have no finished run here.", ""]
    if empty:
        left = f"{len(empty)} of {len(found)} maps have no finished run"
        lines += [f"{left}: {'; '.join(empty)}.", ""]
    return "\n".join(lines) + "\n"


def _line(found: Map, rule: str) -> list[str]:
    """The cells of a rule; [] where no run of it has finished."""
    benign = found.benign(rule)
    worst = [found.worst(rule, targeted) for targeted in (True, False)]
    if not any((benign and benign.runs, *worst)):
        return []
    cells = [
        _text(benign.mta if benign else None),
        _number(found.cost(rule)),
        _number(benign.server_ms if benign else None, 2),
    ]
    for one in worst:
        name = "-"
        if one is not None:
            name = attack_name(one.labels["attack"], one.labels["adapt"])
        cells += [_text(one.harm if one else None) + _seeds(one), name]
    return cells
