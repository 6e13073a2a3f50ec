"""Worst cases: the space, the budget, the search, and the command."""

import json

import pytest
from helpers import BASE, ROOT

from fedjax_sim.commands import worst_case as worst_case_cli
from fedjax_sim.core.errors import InputError
from fedjax_sim.runs.files import write_json
from fedjax_sim.sweeps import Sweep, product, seeds
from fedjax_sim.sweeps.executors import record_failure
from fedjax_sim.sweeps.sweep import expand
from fedjax_sim.sweeps.worst_case import Rung, cost, plan, problems, search

PER = ("defense", "client_defense")
DROP = str(ROOT / "configs" / "drop" / "cifar10.py")


# ------------------------------------------------------------------------ the space


def test_defences_are_searched_one_by_one_and_seeds_averaged():
    points = product(
        {"defense.name": ["fedavg", "droplet"], "client.lr": [0.1, 0.2, 0.3]}, seeds(2)
    )
    fedavg, droplet = problems(Sweep(BASE, points), {}, (), PER)

    assert (fedavg.name, droplet.name) == ("fedavg", "droplet")
    for problem in (fedavg, droplet):
        names = {run.config.defense.name for c in problem.others for run in c.runs}
        assert names == {problem.name}
        # 0.1 is the default.
        assert problem.default.settings == {"client.lr": 0.1}
        assert [c.settings for c in problem.others] == [
            {"client.lr": 0.2},
            {"client.lr": 0.3},
        ]
        for candidate in (problem.default, *problem.others):
            assert [run.config.seed for run in candidate.runs] == [0, 1]


def test_default_is_the_base_with_what_all_points_share():
    points = product({"client.epochs": [3], "client.lr": [0.2, 0.3]})
    (problem,) = problems(Sweep(BASE, points), {"client.momentum": 0.5}, (), PER)
    client = problem.default.runs[0].config.client

    assert (client.lr, client.epochs, client.momentum) == (0.1, 3, 0.5)
    assert list(problem.default.settings) == ["client.lr"]


def test_a_value_that_only_some_points_name_is_searched():
    (problem,) = problems(Sweep(BASE, [{}, {"client.lr": 0.3}]), {}, (), PER)

    assert [c.settings for c in problem.others] == [{"client.lr": 0.3}]


def test_filters_choose_among_candidates_and_seeds():
    points = product({"client.lr": [0.2, 0.3], "client.epochs": [1, 2]}, seeds(2))
    sweep = Sweep(BASE, points, where=lambda values: values["client.epochs"] == 2)
    (problem,) = problems(sweep, {}, ["client.lr=0.3", "seed=1"], PER)

    assert [c.settings for c in problem.others] == [
        {"client.lr": 0.3, "client.epochs": 2}
    ]
    assert [run.config.seed for run in problem.default.runs] == [1]
    assert problem.default.settings == {"client.lr": 0.1, "client.epochs": 1}


def test_arguments_of_a_config_file():
    points = product({":defense": ["fedavg", "median"], ":dpr": [1.25, 5.0]})
    found = problems(Sweep(f"{DROP}:learning=C1", points), {}, (), PER)

    assert [problem.name for problem in found] == ["fedavg", "median"]
    assert [c.settings for c in found[0].others] == [{":dpr": 5.0}]
    assert found[0].default.runs[0].config.attack.options["dpr"] == 0.125


def test_namesakes_are_told_apart_and_other_keys_can_divide():
    penalties = [{"name": "droplet", "penalty": p} for p in (1.0, 2.0)]
    points = product({"defense": penalties, "client.lr": [0.2], "seed": [0]})
    points += product({"defense": penalties, "client.lr": [0.3], "seed": [0]})
    found = problems(Sweep(BASE, points), {}, (), PER)
    assert [p.name for p in found] == [
        "droplet,defense.penalty=1.0",
        "droplet,defense.penalty=2.0",
    ]

    points = product({"client.epochs": [1, 2], "client.lr": [0.2, 0.3]})
    found = problems(Sweep(BASE, points), {}, (), ("client.epochs",))
    assert [p.name for p in found] == ["client.epochs=1", "client.epochs=2"]
    assert [p.default.runs[0].config.client.epochs for p in found] == [1, 2]


@pytest.mark.parametrize(
    ("points", "parts"),
    [
        ([{"defense.name": "fedavg"}, {"defense.name": "median"}], ["nothing to"]),
        ([{"rounds": 3}, {"rounds": 5}], ["config.rounds = 5", "3"]),
        ([{"attack.name": "lie"}, {}], ["'lie'", "backdoor"]),
        ([{"attack.name": "none", "client.lr": 0.3}, {}], ["'none'"]),
    ],
)
def test_spaces_without_a_worst_case(points, parts):
    with pytest.raises(InputError) as problem:
        problems(Sweep(BASE, points), {}, (), PER)

    assert "\n" not in str(problem.value)
    for part in parts:
        assert part in str(problem.value)


def test_each_defence_needs_one_default():
    """`variant` chooses a defence, but its name does not say so."""
    points = product({":defense": ["median"], ":variant": ["authors", "paper"]})
    points = product(points, {":dpr": [2.5, 5.0]})
    with pytest.raises(InputError, match=r"0 default .* name all keys"):
        problems(Sweep(DROP, points), {}, (), PER)
    found = problems(Sweep(DROP, points), {}, (), (*PER, "variant"))
    assert len(found) == 2


# ----------------------------------------------------------------------- the budget


@pytest.mark.parametrize(
    ("budget", "ladder"),
    [
        (19, [(90, 18)]),
        (18.9, [(30, 18), (90, 6)]),
        (13, [(30, 18), (90, 6)]),
        (12.9, [(10, 18), (30, 6), (90, 2)]),
        (7, [(10, 18), (30, 6), (90, 2)]),
        # 12 for 10 rounds, 4 for 30, 2 for 90: 1 + 4/3 + 4/3 + 2 runs.
        (5.7, [(10, 12), (30, 4), (90, 2)]),
        (2, [(90, 1)]),
    ],
)
def test_the_fewest_rungs_that_fit(budget, ladder):
    found = plan(18, 1, 90, budget, 10)

    assert found == [Rung(*rung) for rung in ladder]
    assert cost(found, 1) <= budget
    # Each candidate has all its seeds.
    assert plan(18, 3, 90, 3 * budget, 10) == found


def test_runs_that_go_on_cost_their_new_rounds_and_end_with_an_evaluation():
    # 18 for 10 rounds, 6 for 20 more, 2 for 60 more, and the default.
    ladder = [Rung(10, 18), Rung(30, 6), Rung(90, 2)]
    assert cost(ladder, 1, continues=True) == pytest.approx(1 + 2 + 6 * 2 / 9 + 4 / 3)
    assert plan(18, 1, 90, 5.7, 10, every=1) == ladder
    # Of five, to which lengths are rounded up: 90, 30 and 10; of four: 92, 32 and 12.
    assert [r.rounds for r in plan(18, 1, 92, 5.7, 10, every=4)] == [12, 32, 92]


def test_lengths_are_whole_and_end_at_one_round():
    assert [r.rounds for r in plan(50, 1, 4, 30, 1)] == [1, 2, 4]


def test_budget_for_nothing():
    with pytest.raises(InputError, match=r"--budget=5.9 must be at least 6"):
        plan(18, 3, 90, 5.9, 10)


# ----------------------------------------------------------------------- the search


class World:
    """Invented rates: `law(run) -> (mta, asr[, backdoor loss])`; None: it fails."""

    def __init__(self, root, law):
        self.root, self.law, self.started = root, law, []

    def carry_out(self, runs):
        for run in runs:
            folder = self.root / run.folder
            if (folder / "summary.json").exists():
                continue
            self.started.append(run)
            rates = self.law(run)
            if rates is None:
                record_failure(folder, "no luck")
                continue
            folder.mkdir(parents=True)
            mta, asr, *loss = rates
            row = {"mta": mta, "asr": asr, "backdoor_loss": loss[0] if loss else 1.0}
            first = {"round": 1, "mta": mta - 5, "asr": asr / 2}
            lines = [first, {"round": run.config.rounds, **row}]
            (folder / "metrics.jsonl").write_text(
                "".join(json.dumps(line) + "\n" for line in lines)
            )
            write_json(folder / "summary.json", {"final": row})
        return True


LRS = [0.2 + 0.1 * i for i in range(9)]


def space(count=9):
    points = product({"client.lr": LRS[:count]}, seeds(2))
    return problems(Sweep(BASE, points), {"rounds": 9}, (), PER)


LADDER = [Rung(1, 9), Rung(3, 3), Rung(9, 1)]


def test_the_highest_asr_with_an_acceptable_mta(tmp_path):
    """ASR grows with the rate; beyond 0.8 the model is of no use."""

    def law(run):
        lr = run.config.client.lr
        return (90.0 if lr < 0.75 else 40.0), 100 * lr + run.config.seed

    world = World(tmp_path, law)
    (found,) = search(space(), LADDER, 80.0, tmp_path, world.carry_out)

    assert found.best.candidate.settings["client.lr"] == pytest.approx(0.7)
    assert (found.best.mta, found.best.asr) == (90.0, pytest.approx(70.5))
    assert found.default.asr == pytest.approx(10.5)
    # Round 1 is acceptable too (85), and has half the success.
    assert found.best.least_asr == pytest.approx(35.0)
    assert found.best.least_rounds == 2
    # Nine candidates and the default, then three, then one; two seeds each.
    lengths = [run.config.rounds for run in world.started]
    assert sorted(lengths) == [1] * 18 + [3] * 6 + [9] * 4
    assert len(found.used) == len(lengths)
    assert found.cost == pytest.approx(sum(lengths) / 9)
    assert found.cost <= cost(LADDER, 2)
    longer = {run.config.client.lr for run in world.started if run.config.rounds == 3}
    assert sorted(longer) == pytest.approx([0.5, 0.6, 0.7])


def test_the_same_search_again_runs_nothing(tmp_path):
    world = World(tmp_path, lambda run: (90.0, 100 * run.config.client.lr))
    first = search(space(), LADDER, 80.0, tmp_path, world.carry_out)
    count = len(world.started)
    again = search(space(), LADDER, 80.0, tmp_path, world.carry_out)

    assert again == first
    assert len(world.started) == count


def test_short_runs_decide_by_their_own_length(tmp_path):
    """The winner at full length is out after one round: that is the price."""

    def law(run):
        late = run.config.client.lr > 0.95 and run.config.rounds == 9
        return 90.0, 99.0 if late else 50 - run.config.client.lr

    world = World(tmp_path, law)
    (found,) = search(space(), LADDER, 80.0, tmp_path, world.carry_out)
    assert found.best.asr < 50
    (found,) = search(space(), [Rung(9, 9)], 80.0, tmp_path, world.carry_out)
    assert found.best.asr == 99.0


def test_unacceptable_candidates_survive_by_their_accuracy(tmp_path):
    """Nobody is acceptable in short runs: the most accurate go on."""

    def law(run):
        accuracy = 10 * run.config.rounds * run.config.client.lr
        return accuracy, 100 - accuracy

    world = World(tmp_path, law)
    (found,) = search(space(), LADDER, 80.0, tmp_path, world.carry_out)
    assert found.best.candidate.settings["client.lr"] == pytest.approx(1.0)
    assert found.best.acceptable(80.0)


def test_of_equal_rates_the_lower_backdoor_loss_goes_on(tmp_path):
    """In short runs no attack shows yet; two losses are infinite or unknown."""

    def law(run):
        lr = run.config.client.lr
        late = run.config.rounds == 9
        return 90.0, 100 * lr if late else 0.0, 1 / lr if lr < 0.85 else None

    world = World(tmp_path, law)
    (found,) = search(space(), LADDER, 80.0, tmp_path, world.carry_out)
    assert found.best.candidate.settings["client.lr"] == pytest.approx(0.8)


def test_no_candidate_is_acceptable(tmp_path):
    world = World(tmp_path, lambda run: (70 - run.config.client.lr, 99.0))
    (found,) = search(space(), LADDER, 80.0, tmp_path, world.carry_out)

    assert not found.best.acceptable(80.0)
    assert found.best is found.default  # lr 0.1: the highest MTA
    assert found.best.least_rounds == 0 and found.best.least_asr is None
    text = worst_case_cli.table([found], 80.0, 85.0)
    assert "no configuration that was run in full reaches MTA >= 80" in text
    assert "69.90 with client.lr=0.1" in text


def test_the_default_may_be_the_worst(tmp_path):
    world = World(tmp_path, lambda run: (90.0, min(85, 90 - 10 * run.config.client.lr)))
    (found,) = search(space(), LADDER, 80.0, tmp_path, world.carry_out)

    assert found.best is found.default
    text = worst_case_cli.table([found], 80.0, 40.0)
    assert "the default is the worst that was found" in text
    assert [line.split()[-1] for line in text.splitlines()[2:3]] == ["yes"]


def test_failed_runs_are_no_answer(tmp_path):
    """The candidate of the highest ASR fails with one of its seeds."""

    def law(run):
        if run.config.client.lr > 0.95 and run.config.seed == 1:
            return None
        return 90.0, 99 * run.config.client.lr

    world = World(tmp_path, law)
    (found,) = search(space(), LADDER, 80.0, tmp_path, world.carry_out)
    assert found.best.candidate.settings["client.lr"] == pytest.approx(0.9)
    failed = [run for run in world.started if law(run) is None]
    assert len(failed) == 1  # not tried again in the next rung

    world = World(tmp_path / "all", lambda run: None)
    (found,) = search(space(), LADDER, 80.0, world.root, world.carry_out)
    assert found.best.mta is None
    assert "no answer, all runs failed" in worst_case_cli.table([found], 80.0, 85.0)


def test_stopped_searches_have_no_answer(tmp_path):
    assert search(space(), LADDER, 80.0, tmp_path, lambda runs: False) is None
    # A run that another process has begun and not finished.
    assert search(space(), LADDER, 80.0, tmp_path, lambda runs: True) is None


def test_a_part_of_too_many_candidates_is_the_same_each_time(tmp_path):
    world = World(tmp_path, lambda run: (90.0, 100 * run.config.client.lr))
    ladder = [Rung(9, 4)]
    first = search(space(), ladder, 80.0, tmp_path, world.carry_out)
    assert len({run.config.client.lr for run in world.started}) == 5
    assert search(space(), ladder, 80.0, tmp_path, world.carry_out) == first


def test_unmeasured_success_is_refused(tmp_path):
    world = World(tmp_path, lambda run: (90.0, 1.0))
    world.carry_out(expand(Sweep(BASE, product({"client.lr": LRS}, seeds(2)))))
    for path in tmp_path.glob("*/summary.json"):
        write_json(path, {"final": {"mta": 90.0, "asr": None, "backdoor_loss": None}})
    points = product({"client.lr": LRS}, seeds(2))
    given = problems(Sweep(BASE, points), {}, (), PER)
    with pytest.raises(InputError, match="no test image of the victim class"):
        search(given, [Rung(4, 9)], 80.0, tmp_path, world.carry_out)


# ------------------------------------------------------------------- lost accuracy


def test_an_untargeted_attack_is_judged_by_the_accuracy_it_costs(tmp_path):
    """The model of the highest rate is of no use without an attack, either."""
    base = BASE | {"attack": {"name": "lie", "num_malicious": 2}}
    points = product({"client.lr": LRS})
    given = problems(Sweep(base, points), {"rounds": 9}, (), PER, "accuracy")

    def law(run):
        lr = run.config.client.lr
        clean = 90.0 if lr < 0.95 else 50.0
        return (clean if run.config.attack.name == "none" else clean - 40 * lr), 0.0

    world = World(tmp_path, law)
    (found,) = search(given, LADDER, 80.0, tmp_path, world.carry_out)
    assert found.best.candidate.settings["client.lr"] == pytest.approx(0.9)
    assert found.best.harm == pytest.approx(36.0)
    assert (found.best.mta, found.best.clean_mta) == (pytest.approx(54.0), 90.0)
    attacks = [run.config.attack.name for run in world.started]
    assert attacks.count("none") == attacks.count("lie") == 9 + 1 + 3 + 1
    assert found.cost == pytest.approx(2 * (1 + 9 / 9 + 3 * 3 / 9 + 1))
    text = worst_case_cli.table([found], 80.0, 85.0)
    assert "lost %" in text and text.splitlines()[3].split()[-1] == "36"


def test_lost_accuracy_needs_an_attack():
    base = BASE | {"attack": {"name": "none"}}
    with pytest.raises(InputError, match="no attack that costs accuracy"):
        problems(Sweep(base, [{"client.lr": 0.3}, {}]), {}, (), PER, "accuracy")


# ---------------------------------------------------------------------- the command

SWEEP = f"""
from fedjax_sim.sweeps import Sweep, product

BASE = {BASE!r} | {{"model": {{"name": "mlp"}}}}


def get_sweep():
    return Sweep(BASE, product({{"client.lr": [0.2, 1e-6]}}))
"""


def command(capfd, sweep, results, *arguments):
    capfd.readouterr()
    flags = [f"--sweep={sweep}", f"--results={results}", *map(str, arguments)]
    code = worst_case_cli.main(["worst_case.py", *flags])
    return code, *capfd.readouterr()


@pytest.fixture
def sweep_file(tmp_path):
    path = tmp_path / "space.py"
    path.write_text(SWEEP)
    return path


def test_command_finds_the_worst_rate(sweep_file, tmp_path, capfd):
    """Real runs; the second rate leaves the model untrained."""
    results = tmp_path / "results"
    flags = ["--budget=3", "--mta=40"]
    code, out, err = command(capfd, sweep_file, results, *flags, "--dry_run")
    assert (code, err) == (0, "")
    assert "2 for 4 rounds; at most 3 of 3" in out
    assert not results.exists()

    code, out, err = command(capfd, sweep_file, results, *flags)
    assert (code, err) == (0, "")
    answer = json.loads((results / "worst_case.json").read_text())
    found = answer["defenses"]["fedavg"]
    assert found["default"]["settings"] == {"client.lr": 0.1}
    assert found["runs"] == 3 and found["cost"] == 3
    assert found["worst"]["settings"]["client.lr"] in (0.1, 0.2)
    assert found["worst"]["mta"] >= 40
    assert found["worst"]["asr"] >= found["default"]["asr"]
    for entry in (found["default"], found["worst"]):
        for folder in entry["runs"]:
            final = json.loads((results / folder / "summary.json").read_text())["final"]
            assert (final["mta"], final["asr"]) == (entry["mta"], entry["asr"])

    before = (results / "worst_case.json").read_bytes()
    code, again, _ = command(capfd, sweep_file, results, *flags)
    assert code == 0 and "finished: " not in again
    assert again.splitlines()[-3:] == out.splitlines()[-3:]
    assert (results / "worst_case.json").read_bytes() == before


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ([], ["--budget must be given"]),
        (["--budget=1"], ["--budget=1", "at least 2"]),
        (["--budget=-1"], ["budget"]),
        (["--budget=9", "--mta=101"], ["mta"]),
        (["--budget=9", "--least_rounds=0"], ["least_rounds"]),
        (["--budget=9", "--per=client"], ["nothing to search"]),
        (["--budget=9", "--only=seed=3"], ["no runs"]),
        (["--budget=9", "--config.client.l=1"], ["config.client.l"]),
        (["--budget=9", "--out=/dev/null/x"], ["/dev/null/x"]),
        (["--budgit=9"], ["budgit"]),
    ],
)
def test_wrong_input_is_refused(sweep_file, tmp_path, capfd, flags, parts):
    code, _, err = command(capfd, sweep_file, tmp_path / "results", *flags)

    assert code == 2
    assert err.count("\n") == 1 and err.startswith("error: "), err
    for part in parts:
        assert part in err
    assert not list(tmp_path.glob("results/*"))


def test_where_the_answer_goes_is_checked_before_any_run(sweep_file, tmp_path, capfd):
    (tmp_path / "file").touch()
    results = tmp_path / "results"
    for kind in ([], ["--undetected=client.lr=0.1,1"]):
        for out, part in (
            (tmp_path / "file" / "x.json", "no folder"),
            (tmp_path, "is"),
        ):
            flags = ["--budget=3", f"--out={out}", *kind]
            code, _, err = command(capfd, sweep_file, results, *flags)
            assert code == 2 and err.count("\n") == 1, err
            assert err.startswith(f"error: --out={out}: ") and part in err, err
    for flag in ("--flagged=nan", "--mta=nan", "--budget=inf"):
        code, _, err = command(capfd, sweep_file, results, "--budget=3", flag)
        assert code == 2 and f"{flag}: must be a" in err and err.count("\n") == 1
    assert not results.exists()
