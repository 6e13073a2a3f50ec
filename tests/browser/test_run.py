"""A run's page and the list of runs in a browser."""

import json
import re
import shutil
import threading

from fedjax_sim.pages import live
from fedjax_sim.pages.run import run_page


def test_the_map_tells_what_is_pointed_at(visit, real_run, tmp_path):
    (tmp_path / "page.html").write_text(run_page(real_run))
    page = visit((tmp_path / "page.html").as_uri(), 390, "dark")
    wider = (
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    assert page.evaluate(wider) <= 0
    page.locator("#map canvas").scroll_into_view_if_needed()
    page.locator("#map canvas").hover(position={"x": 25, "y": 3})
    assert page.locator("#map output").inner_text().startswith("client 0, round 1: ")
    page.locator("#map canvas").focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "ArrowUp", "ArrowUp"):
        page.keyboard.press(key)
    assert page.locator("#map output").inner_text().startswith("client 0, round 3: ")


def test_charts_of_a_run_say_what_is_pointed_at(visit, real_run, tmp_path):
    (tmp_path / "page.html").write_text(run_page(real_run))
    page = visit((tmp_path / "page.html").as_uri())
    page.wait_for_function(
        "[...document.querySelectorAll('.plot')].every((one) => one.dataset.drawn)"
    )
    tip = page.locator("#vg-tooltip-element.visible")
    for chart, mark, words in (
        ("progress", "symbol", ("curve", "MTA", "round", "value")),
        ("quantities", "symbol", ("clients", "round", "mean", "low")),
        ("matrices", "rect", ("true class", "the model says", "count")),
        ("classes", "rect", ("client", "class", "count")),
    ):
        page.mouse.move(0, 0)
        tip.wait_for(state="hidden")
        page.locator(f"#{chart} .mark-{mark}.role-mark path").first.hover(force=True)
        tip.wait_for()
        text = tip.inner_text()
        assert all(word in text for word in words), text
        assert not re.search("undefined|NaN|null", text), text


def test_the_list_follows_the_runs(visit, real_run, tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    with live.server(results, "127.0.0.1", 0) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        page = visit(f"http://127.0.0.1:{serving.server_address[1]}/")
        assert "no runs in this folder yet" in page.locator(".empty").inner_text()
        (results / "bad").mkdir()
        (results / "bad" / "error.txt").write_text("ValueError: <b>broken</b>\n")
        run = results / "one"
        shutil.copytree(real_run, run)
        (run / "summary.json").unlink()
        page.locator("tr[data-run=one]").wait_for()
        assert "<b>broken</b>" in page.locator("tr[data-run=bad]").inner_text()
        assert "interrupted" in page.locator("tr[data-run=one]").inner_text()
        page.evaluate("window.kept = true")
        shutil.copy(real_run / "summary.json", run)
        page.locator("tr[data-run=one] .good").wait_for()
        assert page.evaluate("window.kept")  # without reloading

        page.click("text=one")
        page.locator("#progress .plot[data-drawn]").wait_for()
        rows = (run / "rounds.jsonl").read_text().splitlines()
        more = {**json.loads(rows[-1]), "round": 99}
        (run / "rounds.jsonl").write_text("\n".join([*rows, json.dumps(more)]) + "\n")
        page.locator(".status").get_by_text("round 99 of").wait_for()
        serving.shutdown()
