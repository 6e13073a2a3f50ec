"""The contracts as tests for a rule of one's own; no test framework is needed.

    from fedjax_sim.testing import check_defense

    def test_my_rule():
        check_defense(my_rule, factor=3.0)

Each check raises AssertionError with one line that says which promise is broken.
`tests/` of the project runs the same checks on every rule that it has.
"""

from fedjax_sim.testing.attacks import check_attack
from fedjax_sim.testing.defenses import check_defense

__all__ = ["check_attack", "check_defense"]
