"""What a run says while it goes on."""

import pytest

from fedjax_sim.core import progress
from fedjax_sim.core.progress import Progress, duration


@pytest.fixture
def clock(monkeypatch):
    """Returns a function that lets seconds pass."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def wait(seconds):
        now[0] += seconds

    return wait


def test_compiling_and_training_are_told_apart(clock, capsys):
    with Progress("a", 10, 0) as shown:
        clock(60)
        shown.compiled(59.94)
        clock(4)
        shown.show(2, [{"mta": 50.0, "asr": None}])
    assert capsys.readouterr().out.splitlines() == [
        "a: compiling",
        "a: compiled in 59.9 s",
        "a: round 2/10  MTA 50.00  0.50 rounds/s  16 s left",  # 8 rounds of 2 s
    ]


def test_the_time_left_follows_the_pace_of_now(clock, capsys):
    """Rounds that grow dearer, as under a rule that distils late."""
    shown = Progress("a", 1000, 0)
    shown.compiled(1.0)
    for done in range(10, 110, 10):
        clock(1 if done <= 50 else 100)
        shown.show(done, [])
    assert capsys.readouterr().out.splitlines()[-1].endswith("2 h 30 min left")


def test_rounds_of_no_time_are_no_error(clock, capsys):
    shown = Progress("a", 4, 2)
    shown.show(2, [])
    assert capsys.readouterr().out.splitlines()[-1].endswith("? left")


def test_durations():
    said = [duration(x) for x in (0.4, 89, 91, 5399, 12000)]
    assert said == ["0 s", "89 s", "2 min", "1 h 30 min", "3 h 20 min"]
