"""The page of a report in a browser: sorting, filters, runs, charts, both looks."""

import json
import re

import pytest

from fedjax_sim.commands import report as cli

EVIL = "<img src=x onerror=document.title='broken'>"


@pytest.fixture(scope="module")
def results(real_run, tmp_path_factory):
    """Twelve runs: finished, failed, stopped; names of HTML; a folder of others."""
    root = tmp_path_factory.mktemp("looked_at") / "results"
    config = json.loads((real_run / "config.json").read_text())
    summary = json.loads((real_run / "summary.json").read_text())
    metrics = [json.loads(x) for x in (real_run / "metrics.jsonl").open()]
    provenance = (real_run / "provenance.json").read_text()
    number = 0
    for name, mta, asr in (("fedavg", 95, 80), ("median", 93, 4), ("krum", 91, 9)):
        for dpr in (0.25, 0.5):
            for seed in (0, 1):
                number += 1
                folder = root / f"{number}-{EVIL if number == 1 else name}"
                folder.mkdir(parents=True)
                changed = {
                    **config,
                    "seed": seed,
                    "defense": {"name": name},
                    "attack": {**config["attack"], "dpr": dpr},
                }
                (folder / "config.json").write_text(json.dumps(changed))
                (folder / "provenance.json").write_text(provenance)
                rates = {"mta": mta + seed, "asr": asr * dpr * 2 + seed}
                lines = [{**row, **rates} for row in metrics]
                if number == 12:  # the last krum: failed
                    (folder / "error.txt").write_text(f"ValueError: {EVIL}\n")
                    continue
                text = "".join(json.dumps(line) + "\n" for line in lines)
                (folder / "metrics.jsonl").write_text(text)
                (folder / "rounds.jsonl").symlink_to(real_run / "rounds.jsonl")
                if number != 11:  # still going on
                    final = {**summary["final"], **rates}
                    own = {**summary, "final": final, "name": EVIL}
                    (folder / "summary.json").write_text(json.dumps(own))
    (root / "foreign").mkdir()
    (root / "foreign" / "config.json").write_text('{"of": "another program"}')
    return root


@pytest.fixture(scope="module")
def report(results, tmp_path_factory):
    """The address of the report's page."""
    out = tmp_path_factory.mktemp("report")
    keys = ["--rows=defense.name", "--columns=attack.dpr"]
    assert cli.main(["x", f"--results={results}", *keys, f"--out={out}"]) == 0
    return (out / "report.html").as_uri()


def rows_of(page):
    return page.locator("tr[data-row]:visible th[scope=row]").all_inner_texts()


def test_sorting_filtering_and_the_runs_of_a_number(visit, report):
    page = visit(report)
    assert rows_of(page) == ["fedavg", "krum", "median"]
    success = page.locator("button[data-sort='1'][data-column='0']")
    success.click()
    assert rows_of(page) == ["median", "krum", "fedavg"]  # less is better
    assert page.locator("th[aria-sort=ascending]").count() == 1
    success.focus()
    page.keyboard.press("Enter")
    assert rows_of(page) == ["fedavg", "krum", "median"]

    page.select_option("select[name='column:0']", label="0.25")
    assert page.locator("th.group:visible").all_inner_texts() == ["attack dpr 0.25"]
    page.select_option("select[name='row:0']", label="fedavg")
    assert rows_of(page) == ["fedavg"]
    # One seed: averaged again over what is left.
    number = page.locator("td[data-cell]:visible button").first
    assert re.split(r"\s+", number.inner_text()) == ["95.5", "±", "0.7"]
    page.select_option("select[name='seed']", label="1")
    assert number.inner_text() == "96.0"
    assert "6 of 12 runs count" in page.locator(".filters output").inner_text()

    number.click()
    dialog = page.locator("dialog")
    assert "1 run, 1 finished" in dialog.inner_text()
    assert "0.25" in dialog.inner_text() and "jax" in dialog.inner_text()
    dialog.locator("svg").first.wait_for()
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    page.click("button[type=reset]")
    page.wait_for_function(
        "document.querySelectorAll('tr[data-row]:not([hidden])').length == 3"
    )

    # The run whose folder is named in HTML, and the one that failed with it.
    page.locator("td[data-cell] button").first.click()
    assert EVIL in dialog.inner_text()
    assert "broken" not in page.title()
    assert page.locator("main img[src=x], dialog img").count() == 0


def test_charts_are_drawn_hovered_and_follow_the_legend(visit, report):
    page = visit(report)
    page.locator("#curves").scroll_into_view_if_needed()
    plot = page.locator("#curves .plot[data-drawn] svg").first
    plot.wait_for()
    lines = page.locator("#curves .mark-line path")
    assert lines.count() == 6  # three rows in two panels
    page.locator(".series button").first.click()
    page.wait_for_function(
        "document.querySelectorAll('#curves .mark-line path').length == 2"
    )
    assert page.locator(".series [aria-pressed=true]").all_inner_texts() == ["fedavg"]

    place = page.locator("#curves .mark-symbol path").nth(1).bounding_box()
    page.mouse.move(place["x"] + 3, place["y"] + 3)
    tip = page.locator("#vg-tooltip-element.visible")
    tip.wait_for()
    assert "fedavg" in tip.inner_text() and "round" in tip.inner_text()
    assert not re.search("undefined|NaN|null", tip.inner_text())

    page.locator("#tradeoff").scroll_into_view_if_needed()
    page.locator("#tradeoff .mark-symbol path").first.click()
    assert page.locator("dialog").is_visible()


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (2560, "light")])
def test_narrow_and_wide_light_and_dark(visit, report, width, scheme):
    page = visit(report, width, scheme)
    wider = (
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    assert page.evaluate(wider) <= 0
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    levels = [int(x) for x in re.findall(r"\d+", paper)]
    assert (max(levels) < 64) == (scheme == "dark")
    # Headings in order, a name for each figure, table and picture.
    assert page.locator("h1").count() == 1
    unnamed = "[role=img]:not([aria-label]), img:not([alt]), select:not(label select)"
    assert page.locator(unnamed).count() == 0
    assert page.locator("table:not(:has(caption))").count() == 0
    assert (
        "ValueError" in page.locator(".missing").inner_text()
        or page.locator(".failures").count()
    )
