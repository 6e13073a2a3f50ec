"""Fine-tuning: the mean, and then the server's training on it."""

import numpy as np
import pytest

from fedjax_sim.contracts.defense import RootRequest
from fedjax_sim.contracts.federation import GlobalModel
from fedjax_sim.core.errors import InputError
from fedjax_sim.defenses.finetune import finetune


def test_the_server_trains_the_new_model(make_cohort, make_context, make_spec, root):
    defense = finetune()
    cohort = make_cohort([[1.0, 2.0], [3.0, 6.0]], buffers=[[1.0], [2.0]])
    context = make_context(2, 1)._replace(root=root)
    state = defense.init(make_spec(2, num_params=2, num_buffers=1))
    state, judged, result = defense.aggregate(state, cohort, context)
    assert result.update.tolist() == [2, 4]
    model = GlobalModel(context.global_params + result.update, result.buffers)
    _, tuned = defense.after(state, model, judged, context)
    expected = root.train(model, context.key)
    np.testing.assert_array_equal(tuned.params, expected.params)
    np.testing.assert_array_equal(tuned.buffers, expected.buffers)
    assert (tuned.params != model.params).any()


def test_the_server_asks_for_root_samples_and_their_training():
    expected = RootRequest(50, balanced=True, momentum=0.5, weight_decay=0.005)
    assert finetune(num_samples=50, momentum=0.5).root == expected


@pytest.mark.parametrize(
    ("key", "value"), [("num_samples", 0), ("momentum", 1.5), ("weight_decay", -0.1)]
)
def test_bad_arguments_are_refused(key, value):
    with pytest.raises(InputError, match=f"config.defense.{key} = {value} must"):
        finetune(**{key: value})
