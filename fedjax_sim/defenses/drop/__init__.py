"""DROP: DROplet, then distillation from the survivors.

Syros, Suri, Koushanfar, Nita-Rotaru, Oprea, "DROP: Poison Dilution via Knowledge
Distillation for Federated Learning", 2025 (arXiv 2502.07011), Algorithm 1.
"""

from fedjax_sim.contracts.defense import Defense, RootRequest
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.options import (
    Count,
    Fraction,
    Natural,
    NonNegative,
    Positive,
    checked,
    gather,
)
from fedjax_sim.defenses.drop.distillation import distill, replay_bytes
from fedjax_sim.defenses.drop.schedule import FloatType, Loss, Schedule, StorageType
from fedjax_sim.defenses.droplet import droplet_stages, not_banned, owed_penalties
from fedjax_sim.defenses.parts.activity_monitor import (
    BlacklistThreshold,
    Penalty,
    Reward,
    TauB,
)
from fedjax_sim.defenses.parts.pipeline import pipeline
from fedjax_sim.defenses.parts.ward_clusters import Linkage


@checked("defense")
def drop(
    *,
    penalty: Penalty = 1.0,
    reward: Reward = 0.5,
    blacklist_threshold: BlacklistThreshold = None,
    tau_b: TauB = None,
    linkage: Linkage = "device",
    clustering: bool = True,
    monitoring: bool = True,
    every: Count = 5,
    start_round: Natural = 0,
    num_seed: Count = 1000,
    num_validation: Natural = 0,
    budget: Count = 5_000_000,
    batch_size: Count = 512,
    iter_gen: Count = 1,
    iter_clone: Count = 5,
    iter_exp: Count = 10,
    latent_dim: Count = 100,
    lr_clone: NonNegative = 0.1,
    lr_gen: NonNegative = 1e-3,
    lr_dis: NonNegative = 1e-4,
    alpha_gan: NonNegative = 0.5,
    lambda1: NonNegative = 10.0,
    loss_type: Loss = "l1",
    temperature: Positive = 1.0,
    num_repeat_real: Count = 10,
    clone_init_with_global: bool = True,
    ensemble: bool = True,
    prev_global_weight: Fraction = 0.0,
    frac_recover_acc: NonNegative | None = None,
    log_iter: Count = 100_000,
    teacher_dtype: FloatType = "float32",
    replay_dtype: StorageType = "float32",
) -> Defense:
    """Returns DROP; the defaults are those of CIFAR-10.

    The generator makes images in [-1, 1]: normalise the data to that range
    (`config.data.normalization = half`).

    Args:
      penalty: of a suspicious client, added in each such round.
      reward: taken off the penalty in a clean round; None is as much as `penalty`.
      blacklist_threshold: a client whose penalty reaches it is banned and never sampled
        again; None bans nobody, as in all published settings.
      tau_b: a client is kept out of a round while it owes that much (Algorithm 1); None
        while it owes anything (section 4.2, the code).
      linkage: who clusters: the `device`, with the decisions of SciPy, or `scipy` on
        the host, for which the program is compiled anew at every start.
      clustering, monitoring: the parts of DROplet; without both the distillation is
        alone.
      every, start_round: distil in rounds divisible by `every` (the paper's K), not
        before `start_round`.
      num_seed: the server's seed images, drawn from the training set.
      num_validation: more images of the server, for early stopping.
      budget: "queries" of one distillation; 5e6 at B = 512 are 651 iterations.
      batch_size: B, of all steps.
      iter_gen, iter_clone, iter_exp: generator, clone and replay steps an iteration.
      latent_dim: size of the generator's input.
      lr_clone, lr_gen, lr_dis: learning rates, each on a cosine to zero.
      alpha_gan: weight of the critic in the generator's loss.
      lambda1: weight of the gradient penalty.
      loss_type: between the logits of teachers and clone; see
        `losses.clone_loss`.
      temperature: of the loss `kl_div`.
      num_repeat_real: passes over the seeds that the critic's batches are drawn from.
      clone_init_with_global: start the clone from the global model before this
        round's aggregation, otherwise from fresh weights.
      ensemble: teach with the survivors' mean logits, otherwise with the aggregate.
      prev_global_weight: share of the aggregate in the result.
      frac_recover_acc: stop once the clone's accuracy on the validation samples
        reaches this share of the aggregate's; None runs to the end.
      log_iter: queries between two checks for early stopping.
      teacher_dtype: of what the teachers compute; `bfloat16` halves their cost on
        accelerators.
      replay_dtype: of the images in the replay buffer; `uint8` takes a quarter of the
        memory.

    Raises:
      InputError: an option outside its range, or a combination that cannot run.
    """
    schedule = gather(Schedule, locals())
    if schedule.iterations < 1:
        raise InputError(
            f"config.defense.budget = {budget} must be at least {schedule.queries}, "
            "the queries of one iteration"
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
        *droplet_stages(
            penalty=penalty,
            reward=reward,
            blacklist_threshold=blacklist_threshold,
            tau_b=tau_b,
            linkage=linkage,
            clustering=clustering,
            monitoring=monitoring,
        ),
        after=distill(schedule),
        root=RootRequest(num_seed + num_validation, augmented=True),
        distills=schedule.due,
        memory=replay_bytes(schedule),
        eligible=None if blacklist_threshold is None else not_banned,
        owed=owed_penalties if monitoring else None,
    )


ENTRY = Entry(
    drop,
    paper="Syros et al. 2025 (DROP)",
    oracle="clean samples, taken from the training set",
    weighs=True,
)
