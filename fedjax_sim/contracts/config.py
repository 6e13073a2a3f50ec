"""What a run is: the typed schema behind a config file.

Sections that choose something by `name` (a data set, a defence, ...) take, beside their
fixed keys, the options of what is chosen: `defense.name = "droplet"` allows
`defense.penalty`. `experiment.config` reads files and flags into it.
"""

from typing import Annotated, Any, Literal

import pydantic
from pydantic import BaseModel, Field

from fedjax_sim.core.errors import FLOAT32_MAX, INT32_MAX

# No larger number stays what it is in the program, where it is an int32 or a float32.
Positive = Annotated[int, Field(ge=1, le=INT32_MAX)]
NonNegative = Annotated[float, Field(ge=0, le=FLOAT32_MAX, allow_inf_nan=False)]
# Beyond these a run could not end, or not even be laid out.
Rounds = Annotated[int, Field(ge=1, le=10_000_000)]
Epochs = Annotated[int, Field(ge=1, le=1_000_000)]
Batch = Annotated[int, Field(ge=1, le=10_000_000)]
Clients = Annotated[int, Field(ge=1, le=10_000_000)]
Attackers = Annotated[int, Field(ge=0, le=10_000_000)]
Memory = Annotated[float, Field(gt=0, le=1e9)]  # GiB
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Section(BaseModel):
    """A part of the config: unknown keys are errors, values are not converted."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)


class Named(Section):
    """A section whose `name` chooses a factory; `options` are its arguments."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict)


class Data(Named):
    """Which images, and what the model sees of them."""

    name: str = "digits"  # a key of data.sources.SOURCES, or tfds:NAME
    data_dir: str | None = None  # folder that holds the official files
    normalization: str = "half"
    augmentation: str = "none"
    num_train: Positive | None = None  # use the first so many training samples only
    num_test: Positive | None = None  # and the first so many test samples


class PartitionSection(Named):
    """Which client holds which samples."""

    name: str = "drop_iid"
    num_clients: Clients = 10  # N, genuine clients
    seed: Seed | None = None  # None: the run's seed


class ModelSection(Named):
    """The network."""

    name: str = "mlp"
    init: str | None = None  # a run's folder, .npz, .safetensors, .pt; None: random


class Client(Section):
    """Local training."""

    lr: NonNegative = 0.01
    schedule: Literal["constant", "step", "cosine"] = "constant"  # of lr, over rounds
    momentum: NonNegative = 0.9
    persist_momentum: bool = False  # the buffer of a client survives between rounds
    weight_decay: NonNegative = 0.0
    batch_size: Batch = 64
    epochs: Epochs = 2
    steps: Positive | None = None  # a number of steps instead of epochs


class ParticipationSection(Named):
    """Who takes part in a round."""

    name: str = "uniform"
    clients_per_round: Clients = 10  # n


class AttackSection(Named):
    """The adversary and how many clients it controls."""

    name: str = "none"
    num_malicious: Attackers = 0  # M among the genuine clients
    num_fake: Attackers = 0  # malicious clients beyond them, no data
    malicious_clients: str = "random"  # or last, leadfl
    # Attackers who try the server's rule first: as strong as they keep `adapt_share` of
    # an equal weight (scale), or as moves its answer farthest (search); who stay in the
    # benign one of two Ward clusters (ward); who send what FedREDefense's
    # reconstruction makes of their update (reconstruct).
    adapt: Literal["none", "scale", "search", "ward", "reconstruct"] = "none"
    adapt_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    adapt_trials: Annotated[int, Field(ge=1, le=1000)] = 8  # of the rule, in a round
    # None: clients of the round over attackers.
    adapt_largest: Annotated[float, Field(gt=1, le=1e6)] | None = None
    adapt_knows: Literal["benign", "own"] = "benign"  # updates to try it with
    # An attacker works honestly in rounds in which the server's rule holds more than
    # this against it (the penalties of DROP); None: it never rests.
    rest_above: NonNegative | None = None


class DefenseSection(Named):
    """The server rule."""

    name: str = "fedavg"
    # Stages in front of the rule; their options: STAGE_KEY.
    before: tuple[str, ...] = ()
    weights: Literal["uniform", "examples"] = "uniform"  # of the clients, in a mean


class ClientDefenseSection(Named):
    """What benign clients change in their own training."""

    name: str = "none"


class Server(Section):
    """The server step."""

    lr: NonNegative = 1.0
    optimizer: Literal["none", "sgd", "adagrad", "adam", "yogi"] = "none"


class Evaluation(Section):
    """When and what to measure."""

    every: Positive = 1  # rounds
    batch_size: Batch = 500
    low_confidence_threshold: Annotated[float, Field(gt=0, lt=1)] | None = None
    any_source: bool = False  # ASR also over the triggered images of all classes
    batch_statistics: bool = False  # BatchNorm as in training (LeadFL's code)
    attack_effect: bool = False  # run the same rounds without the attack beside it


class Execution(Section):
    """How the work is laid out; no effect on results but rounding."""

    clients: str = "auto"  # auto, vmap, map or chunk:K
    lowering: Literal["auto", "patches", "blocked", "winograd", "native"] = "auto"
    microbatch: Literal["auto", "off"] | Batch = "auto"
    # Of float32 in training and evaluation; the server always takes the highest.
    matmul_precision: Literal["default", "high", "highest"] = "default"
    activations: Literal["float32", "bfloat16"] = "float32"  # of networks
    devices: Annotated[int, Field(ge=1, le=1024)] = 1
    memory_gib: Memory | Literal["auto", "unlimited"] = "auto"
    clock: bool = False  # times the phases of every round
    compilation_cache: str = "auto"  # auto (the user's cache folder), off or a folder


class Checkpoint(Section):
    """When a run saves itself."""

    every_rounds: Positive | None = None  # None: by time only
    every_seconds: NonNegative = 60.0


class Log(Section):
    """What a run writes beside its results."""

    tensorboard: bool = False
    mlflow: bool = False  # mlflow.db in the run's folder
    wandb: bool = False  # offline, in the run's folder


class Config(Section):
    """A complete run."""

    seed: Seed = 0
    rounds: Rounds = 20
    data: Data = Data()
    partition: PartitionSection = PartitionSection()
    model: ModelSection = ModelSection()
    client: Client = Client()
    participation: ParticipationSection = ParticipationSection()
    attack: AttackSection = AttackSection()
    defense: DefenseSection = DefenseSection()
    client_defense: ClientDefenseSection = ClientDefenseSection()
    server: Server = Server()
    evaluation: Evaluation = Evaluation()
    execution: Execution = Execution()
    checkpoint: Checkpoint = Checkpoint()
    log: Log = Log()
