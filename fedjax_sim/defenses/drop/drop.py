"""DROP: DROplet, then distillation from the survivors.

Syros, Suri, Koushanfar, Nita-Rotaru, Oprea, "DROP: Poison Dilution via Knowledge
Distillation for Federated Learning", 2025 (arXiv 2502.07011), Algorithm 1.
"""

from typing import Literal

from fedjax_sim.contracts.defense import Defense, RootRequest, pipeline
from fedjax_sim.core.errors import InputError
from fedjax_sim.defenses.drop.activity_monitor import activity_monitor
from fedjax_sim.defenses.drop.distillation import Loss, Schedule, distill, replay_bytes
from fedjax_sim.defenses.drop.droplet import not_banned
from fedjax_sim.defenses.drop.ward_clusters import ward_clusters


def drop(
    *,
    penalty: float = 1.0,
    reward: float | None = 0.5,
    blacklist_threshold: float | None = None,
    every: int = 5,
    start_round: int = 0,
    num_seed: int = 1000,
    num_validation: int = 0,
    budget: int = 5_000_000,
    batch_size: int = 512,
    iter_gen: int = 1,
    iter_clone: int = 5,
    iter_exp: int = 10,
    latent_dim: int = 100,
    lr_clone: float = 0.1,
    lr_gen: float = 1e-3,
    lr_dis: float = 1e-4,
    alpha_gan: float = 0.5,
    lambda1: float = 10.0,
    loss_type: Loss = "l1",
    temperature: float = 1.0,
    num_repeat_real: int = 10,
    clone_init_with_global: bool = True,
    ensemble: bool = True,
    prev_global_weight: float = 0.0,
    frac_recover_acc: float | None = None,
    log_iter: int = 100_000,
    teacher_dtype: Literal["float32", "bfloat16"] = "float32",
    replay_dtype: Literal["float32", "bfloat16", "uint8"] = "float32",
) -> Defense:
    """Returns DROP; the defaults are those of CIFAR-10.

    The generator makes images in [-1, 1]: normalise the data to that range
    (`config.data.normalization = half`).

    Args:
      penalty, reward, blacklist_threshold: of the activity monitor.
      every, start_round: distil in rounds divisible by `every` (the paper's K), not
        before `start_round`.
      num_seed: the server's seed images, drawn from the training set.
      num_validation: more of them, for early stopping.
      budget: "queries" of one distillation; 5e6 at B = 512 are 651 iterations.
      batch_size: B.
      iter_gen, iter_clone, iter_exp: generator, clone and replay steps an iteration.
      latent_dim: of the generator's input.
      lr_clone, lr_gen, lr_dis: learning rates, each on a cosine to zero.
      alpha_gan: weight of the critic in the generator's loss.
      lambda1: weight of the gradient penalty.
      loss_type, temperature: between teachers and clone.
      num_repeat_real: passes over the seeds that the critic's batches are drawn from.
      clone_init_with_global: start the clone from the global model before this
        round's aggregation, otherwise from fresh weights.
      ensemble: teach with the survivors' mean logits, otherwise with the aggregate.
      prev_global_weight: share of the aggregate in the result.
      frac_recover_acc: stop once the clone's accuracy on the validation samples
        reaches this share of the aggregate's; None runs to the end.
      log_iter: queries between two such checks.
      teacher_dtype: `bfloat16` halves the teachers' cost on accelerators.
      replay_dtype: of the stored images; `uint8` takes a quarter of the memory.

    Raises:
      InputError: a number outside its range, or a combination that cannot run.
    """
    for key, value in (
        ("every", every),
        ("num_seed", num_seed),
        ("batch_size", batch_size),
        ("iter_gen", iter_gen),
        ("iter_clone", iter_clone),
        ("iter_exp", iter_exp),
        ("latent_dim", latent_dim),
        ("num_repeat_real", num_repeat_real),
        ("log_iter", log_iter),
    ):
        if value < 1:
            raise InputError(f"config.defense.{key} = {value} must be at least 1")
    schedule = Schedule(
        budget=budget,
        batch_size=batch_size,
        iter_gen=iter_gen,
        iter_clone=iter_clone,
        iter_exp=iter_exp,
        latent_dim=latent_dim,
        lr_clone=lr_clone,
        lr_gen=lr_gen,
        lr_dis=lr_dis,
        alpha_gan=alpha_gan,
        lambda1=lambda1,
        loss_type=loss_type,
        temperature=temperature,
        num_repeat_real=num_repeat_real,
    )
    if schedule.iterations < 1:
        least = batch_size * (iter_clone - 1 + 11 * iter_gen)
        raise InputError(
            f"config.defense.budget = {budget} must be at least {least}, the queries "
            "of one iteration"
        )
    if num_seed * num_repeat_real < batch_size:
        raise InputError(
            f"config.defense.num_seed = {num_seed} times num_repeat_real = "
            f"{num_repeat_real} must be at least batch_size = {batch_size}"
        )
    if (frac_recover_acc is None) != (num_validation == 0):
        raise InputError(
            f"config.defense.frac_recover_acc = {frac_recover_acc} and num_validation "
            f"= {num_validation} go together: early stopping needs both, or neither"
        )
    return pipeline(
        ward_clusters(),
        activity_monitor(
            penalty=penalty, reward=reward, blacklist_threshold=blacklist_threshold
        ),
        after=distill(
            schedule,
            every=every,
            start_round=start_round,
            clone_init_with_global=clone_init_with_global,
            use_ensemble=ensemble,
            prev_global_weight=prev_global_weight,
            frac_recover_acc=frac_recover_acc,
            log_iter=log_iter,
            teacher_dtype=teacher_dtype,
            replay_dtype=replay_dtype,
            num_seed=num_seed,
        ),
        root=RootRequest(num_seed + num_validation, augmented=True),
        memory=replay_bytes(schedule, num_seed, replay_dtype),
        eligible=None if blacklist_threshold is None else not_banned,
    )
