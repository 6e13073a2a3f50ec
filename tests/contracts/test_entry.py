"""What every entry of every table says of itself."""

import re

import pytest

from fedjax_sim.experiment.config import TABLES

# They do nothing, or were made for this package: there is no paper.
OURS = {
    ("attack", "none"),
    ("attack", "framing"),
    ("client_defense", "none"),
    ("data", "arrays"),
    ("data", "image_folder"),
    ("data", "npz"),
    ("data", "synthetic"),
    ("model", "mlp"),
    ("participation", "explicit"),
    ("partition", "file"),
    ("partition", "random_equal"),
}
# The article prints neither authors nor a year; see docs/protocols/iqr.md.
ARTICLE = {
    ("attack", "block_backdoor"),
    ("defense", "clip_avg"),
    ("defense", "iqr_clip_avg"),
    ("defense", "iqr_filter"),
}

ENTRIES = [(section, name) for section, table in TABLES.items() for name in table]
every_entry = pytest.mark.parametrize(("section", "name"), ENTRIES)


@every_entry
def test_an_entry_names_its_source_by_author_and_year(section, name):
    paper = TABLES[section][name].paper
    if (section, name) in OURS:
        assert paper == "-"
    elif (section, name) in ARTICLE:
        assert "article" in paper
    else:
        assert re.search(r"[A-Z]\w+.*\b(19|20)\d\d\b", paper)


def test_entries_without_a_paper_exist():
    assert set(ENTRIES) >= OURS | ARTICLE


@every_entry
def test_who_is_told_the_number_of_attackers_says_so(section, name):
    entry = TABLES[section][name]
    told = entry.options.get("num_byzantine")
    assert re.match(r"none\b|[a-z ]{10,}", entry.oracle)
    if told is not None and told.default is None:
        assert "number of malicious clients" in entry.oracle
