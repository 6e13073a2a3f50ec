"""Static clipping: no update is longer than a fixed length."""

from fedjax_sim.contracts.defense import Cohort, RoundContext, Stage
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.options import Sizable, Traced, checked
from fedjax_sim.defenses.parts.building import stateless
from fedjax_sim.defenses.parts.clipping import clip_factors, shorten
from fedjax_sim.numerics.distances import row_lengths


@checked("defense")
def clipping(*, norm: Traced[Sizable] = 2.0) -> Stage:
    """Returns the stage that shortens updates to a norm. Score: `clip_factor` f32 [n].

    Args:
      norm: longest update that counts in full.

    Raises:
      InputError: an option outside its range.
    """

    def clip(cohort: Cohort, context: RoundContext) -> Cohort:
        del context
        return shorten(cohort, clip_factors(row_lengths(cohort.updates), norm))

    return stateless(clip)


ENTRY = Entry(clipping, paper="Sun et al. 2019, arXiv 1911.07963")
