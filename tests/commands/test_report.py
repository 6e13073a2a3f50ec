"""Reports as a user asks for them: text on the terminal, files in a folder."""

import re
from xml.etree import ElementTree

import pytest
from matplotlib import rc_context

from fedjax_sim.commands import report as cli
from fedjax_sim.papers import load_layout
from fedjax_sim.reports import figures, render, store
from fedjax_sim.reports.drawings import drawing
from fedjax_sim.reports.tables import grid, published_table


def command(capsys, results, *arguments):
    """Runs the command line; returns (exit code, stdout, stderr)."""
    capsys.readouterr()
    code = cli.main(["report.py", f"--results={results}", *arguments])
    return code, *capsys.readouterr()


@pytest.fixture
def results(make_run):
    for name in ("fedavg", "droplet"):
        for seed in (0, 1):
            changes = {"defense.name": name, "seed": seed, "attack.dpr": 0.125}
            changes |= {"attack.num_malicious": 1, "partition.num_clients": 5}
            asr = 60.0 if name == "fedavg" else 2.0
            make_run(f"{name}{seed}", changes, mta=90.0 + seed, asr=asr + seed)
    return make_run.results


SMALL = [
    "--layout=drop_table3",
    "--cells=dataset=cifar10",
    "--ignore=data,client,rounds,model,partition,participation,attack.num_malicious",
]


def test_where_lists_the_runs_it_selects(results, capsys):
    where = "defense_name = 'droplet' and attack_dpr > 0.1"
    code, out, err = command(capsys, results, "--where", where)

    assert (code, err) == (0, "")
    head, _, *lines, count = out.splitlines()
    assert head.split() == ["seed", "status", "mta", "asr", "run"]
    assert [line.split() for line in lines] == [
        ["0", "finished", "90", "2", "droplet0"],
        ["1", "finished", "91", "3", "droplet1"],
    ]
    assert count == "2 rows"


def test_sql_queries_the_runs(results, capsys):
    sql = "SELECT defense_name, avg(asr) AS a FROM runs GROUP BY ALL ORDER BY a"
    code, out, _ = command(capsys, results, f"--sql={sql}")

    assert code == 0
    assert [line.split() for line in out.splitlines()[2:4]] == [
        ["droplet", "2.5"],
        ["fedavg", "60.5"],
    ]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--sql=SELECT 1", "--where=seed = 1"], "--where has no part"),
        (["--sql=SELECT 1", "--out=OUT"], "--out has no part"),
        (["--values=mta"], "--values needs --rows"),
        (["--rows=seed,seed"], "seed is given twice"),
        (["--rows=seed", "--columns=seed"], "seed is given twice"),
        (["--rows=seed", "--values=mta,mta"], "mta is given twice"),
    ],
)
def test_what_would_be_ignored_is_refused(results, capsys, flags, said):
    code, out, err = command(capsys, results, *flags)
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert said in err


def test_a_refused_report_writes_nothing(results, capsys, tmp_path):
    out = tmp_path / "out"
    flags = ["--rows=defense.name", "--figure=mta@nothing", f"--out={out}"]
    code, _, err = command(capsys, results, *flags)
    assert code == 2 and "nothing" in err
    assert list(out.iterdir()) == []


def test_out_writes_tables_figures_and_parquet(results, tmp_path, capsys):
    out = tmp_path / "out"
    code, printed, err = command(capsys, results, *SMALL, f"--out={out}")

    assert (code, err) == (0, "")
    names = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
    assert names == {
        "runs.parquet",
        "rounds.parquet",
        "drop_table3.md",
        "drop_table3.tex",
        "drop_table3.html",
        "figures/drop_table3_bars.svg",
        "figures/drop_table3_over_rounds.svg",
        "figures/drop_table3_mta_asr_by_dpr.svg",
        "figures/drop_table3_triggers.svg",
    }
    text = (out / "drop_table3.md").read_text()
    # Mean ± spread (published, difference).
    assert "| droplet | 90.5 ± 0.7 (87.49, +3.0) | 2.5 ± 0.7 (91.30, -88.8) |" in text
    assert "| drop | - (76.05) | - (1.30) |" in text
    assert "| data.name | cifar10 | digits | 2 |" in text
    assert "arXiv 2502.07011" in text
    for path in re.findall(r"\]\((figures/[^)]*)\)", text):
        assert (out / path).is_file()
    assert "| droplet | 90.5 ± 0.7" in printed


def test_latex_is_balanced(results, tmp_path, capsys):
    command(capsys, results, *SMALL, f"--out={tmp_path}")
    text = (tmp_path / "drop_table3.tex").read_text()

    assert text.count("{") == text.count("}")
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")]
    lines = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert len(lines) == 10
    assert all(line.count("&") == 6 for line in lines)
    assert r"90.5 $\pm$ 0.7 {\scriptsize (87.49, +3.0)}" in body
    assert r"2.5 $\pm$ 0.7 {\scriptsize (91.30, $-$88.8)}" in body
    assert "MCR 20 \\%" in text and not re.search(r"(?<!\\)%(?! needs)", body)


def test_text_is_escaped(make_run):
    make_run("a", mta=90.0, asr=1.0)
    runs = store.select(store.gather(make_run.results), None)
    table = grid(runs, rows=["defense.name"], columns=[], values=["mta"])
    table = table._replace(title="a < b & c_d", rows=[("x|<y>_&",)])
    table = table._replace(
        cells={(table.rows[0], ()): next(iter(table.cells.values()))}
    )

    assert r"x|<y>\_\&" in render.latex(table)
    text = render.markdown(table, {})
    assert r"x\|&lt;y>_&amp;" in text and "# a &lt; b &amp; c_d" in text


def test_rows_and_columns_make_a_table(results, tmp_path, capsys):
    code, out, _ = command(
        capsys,
        results,
        "--rows=defense.name",
        "--columns=attack.dpr,partition.name",
        "--values=mta,late_asr",
    )

    assert code == 0
    assert "attack dpr 0.125, drop_iid MTA" in out
    assert "| fedavg | 90.5 ± 0.7 |" in out


def test_figures_show_the_data(results):
    database = store.gather(results)
    runs = store.select(database, None)
    _, rounds = store.query(database, "SELECT * FROM rounds")
    table = published_table(load_layout("drop_table3"), runs)
    assert figures.over_rounds(table, rounds) is None  # no cell has a run
    assert figures.bars(table) is None
    table = grid(runs, rows=["defense.name"], columns=["attack.dpr"], values=["mta"])
    curves = figures.over_rounds(table, rounds)
    assert curves == figures.over_rounds(table, rounds)  # the same bits
    for svg in (curves, figures.bars(table)):
        assert ElementTree.fromstring(svg).tag.endswith("svg")
    other = grid(
        runs,
        rows=["defense.name"],
        columns=["attack.dpr"],
        values=["mta", "asr_any_source"],
    )
    assert figures.over_rounds(other, rounds) != curves  # another rate of success
    once = [row for row in rounds if row["round"] == 4]
    assert figures.over_rounds(table, once) is None  # nothing over rounds


def test_any_metric_against_any_setting_and_over_the_rounds(results, tmp_path, capsys):
    rows = ["--rows=defense.name", "--columns=attack.dpr", "--values=mta"]
    asked = ["--figure=mta,least_asr@attack.dpr", "--figure=update_norm_max@round"]
    code, _, err = command(capsys, results, *rows, *asked, f"--out={tmp_path}")
    assert (code, err) == (0, "")
    for name in ("mta_least_asr_by_attack_dpr", "update_norm_max_by_rounds"):
        svg = (tmp_path / "figures" / f"report_{name}.svg").read_text()
        assert ElementTree.fromstring(svg).tag.endswith("svg")
        assert "droplet" in svg or "<use" in svg
    for wrong, part in (
        ("--figure=mta@client.lr", "no row or column"),
        ("--figure=mtaa@attack.dpr", "'mta'"),
        ("--figure=mtaa@round", "nobody recorded"),
    ):
        code, _, err = command(capsys, results, *rows, wrong, f"--out={tmp_path}")
        assert code == 2 and part in err and err.count("\n") == 1, err


def test_a_metric_beside_another_has_a_panel_for_each_cell(results):
    """LeadFL's equations: what is measured against its recursion."""
    database = store.gather(results)
    runs = store.select(database, None)
    table = grid(runs, rows=["defense.name"], columns=["attack.dpr"], values=["mta"])
    texts = []
    for kind in ("rounds", "beside"):
        wanted = {"kind": kind, "values": ["mta", "asr", "nobody_recorded_this"]}
        with rc_context({"svg.fonttype": "none"}):
            svg = drawing(wanted, table, database).decode()
        # In the order in which they are drawn: labels of the panels, then the legend.
        found = re.findall(r">([a-zA-Z]+)</text>", svg)
        texts.append([text for text in found if text != "round"])
    assert texts[0] == ["MTA", "ASR", "droplet", "fedavg"]
    assert texts[1] == ["droplet", "fedavg", "MTA", "ASR"]


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--where=defens = 'x'"], "defense_name"),
        (["--where=seed = 7"], "no run is like that"),
        (["--layout=drop_table9"], "drop_table3"),
        (["--layout=drop_table3", "--rows=seed"], "one or the other"),
        (["--ignore=client.lr"], "--layout"),
        (["--small"], "--layout"),
        (["--figure=mta@round"], "--layout"),
        (["--rows=seed", "--figure=mta@round"], "--out"),
        (["--rows=seed", "--figure=mta", "--out=x"], "METRIC[,METRIC]@FIELD"),
        (["--rows=defence.name"], "did you mean 'defense_name'"),
        (["--layot=x"], "layot"),
        (["extra"], "not a flag"),
        (["--rows=seed", "--out=/dev/null/x"], "/dev/null/x"),
        (["--held=nan"], "--held=nan: must be a number in the range [0.0, 100.0]"),
        (["--mta=nan"], "--mta=nan"),
        (["--asr=-nan"], "--asr=nan"),
        (["--asr=inf"], "--asr=inf"),
    ],
)
def test_wrong_input_is_refused(results, capsys, flags, part):
    code, _, err = command(capsys, results, *flags)

    assert code == 2
    assert err.count("\n") == 1 and part in err, err


@pytest.mark.parametrize(
    "name", ["runs.parquet", "report.html", "figures/report_bars.svg"]
)
def test_what_cannot_be_written_is_one_line(results, tmp_path, capsys, name):
    (tmp_path / "out" / name).mkdir(parents=True)
    flags = ["--rows=defense.name", f"--out={tmp_path / 'out'}"]
    code, _, err = command(capsys, results, *flags)

    assert code == 2
    assert err.count("\n") == 1, err
    assert f"--out={tmp_path / 'out'}: " in err and name in err, err


def test_results_must_be_given(capsys):
    assert cli.main(["report.py"]) == 2
    assert "--results must be given" in capsys.readouterr().err
