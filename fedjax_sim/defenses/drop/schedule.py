"""How much DROP distils, and how: options under the names of the authors' configs."""

from typing import Literal, NamedTuple

from jax import Array

Loss = Literal["l1", "l1_sum", "kl_div"]
FloatType = Literal["float32", "bfloat16"]
StorageType = Literal["float32", "bfloat16", "uint8"]


class Schedule(NamedTuple):
    """When and how much is distilled, and how: options of `drop`.

    The names are those of the authors' configs.
    """

    every: int
    start_round: int
    num_seed: int
    budget: int
    batch_size: int
    iter_gen: int
    iter_clone: int
    iter_exp: int
    latent_dim: int
    lr_clone: float
    lr_gen: float
    lr_dis: float
    alpha_gan: float
    lambda1: float
    loss_type: Loss
    temperature: float
    num_repeat_real: int
    clone_init_with_global: bool
    ensemble: bool
    prev_global_weight: float
    frac_recover_acc: float | None
    log_iter: int
    teacher_dtype: FloatType
    replay_dtype: StorageType

    @property
    def queries(self) -> int:
        """Of an iteration: ten of eleven per generator step are a relic of MAZE."""
        return self.batch_size * (self.iter_clone - 1 + 11 * self.iter_gen)

    @property
    def iterations(self) -> int:
        """I."""
        return self.budget // self.queries

    def due(self, round_: Array | int) -> Array | bool:
        """Whether the round ends with a distillation."""
        return (round_ % self.every == 0) & (round_ >= self.start_round)
