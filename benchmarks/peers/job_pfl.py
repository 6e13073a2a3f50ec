"""The job of `benchmarks.peers` in pfl 0.6, run by the Python of its environment.

    python job_pfl.py DATA ROUNDS

One client after the other: pfl spreads clients over processes with Horovod only.
"""

import sys

import torch
import torch_task as task
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByUser
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import MinimizeReuseUserSampler
from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from torch import nn

folder, rounds = sys.argv[1], int(sys.argv[2])
torch.manual_seed(4)
pixels, labels = task.images(folder, "train")
test = task.images(folder, "t10k")
indices = task.client_indices()


class Network(nn.Module):
    """The network with the functions that pfl asks for."""

    def __init__(self):
        super().__init__()
        self.layers = task.network()

    def forward(self, x):
        return self.layers(x)

    def loss(self, x, y):
        self.train()
        return nn.functional.cross_entropy(self(x), y)

    @torch.no_grad()
    def metrics(self, x, y):
        return {}


def client(number: int) -> Dataset:
    """Twenty batches of a client, drawn anew each time."""
    own = indices[number]
    drawn = own[torch.randperm(len(own))[: task.STEPS * task.BATCH]]
    return Dataset([pixels[drawn], labels[drawn]], user_id=str(number))


class Evaluation(TrainingProcessCallback):
    """Says when a round has been evaluated."""

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
        task.say(central_iteration + 1, model.pytorch_model, *test)
        return False, Metrics()


network = Network()
model = PyTorchModel(
    model=network,
    local_optimizer_create=lambda parameters, lr: torch.optim.SGD(
        parameters, lr=lr, momentum=task.MOMENTUM
    ),
    central_optimizer=torch.optim.SGD(network.parameters(), lr=1.0),
)
clients = FederatedDataset(client, MinimizeReuseUserSampler(list(range(task.CLIENTS))))
FederatedAveraging().run(
    NNAlgorithmParams(
        central_num_iterations=rounds,
        evaluation_frequency=rounds + 1,
        train_cohort_size=task.CLIENTS,
        val_cohort_size=0,
    ),
    SimulatedBackend(clients, clients, postprocessors=[WeightByUser()]),
    model,
    NNTrainHyperParams(
        local_num_epochs=1,
        local_learning_rate=task.LR,
        local_batch_size=task.BATCH,
    ),
    NNEvalHyperParams(local_batch_size=1000),
    [Evaluation()],
)
