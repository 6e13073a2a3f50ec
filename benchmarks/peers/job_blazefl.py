"""The job of `benchmarks.peers` in BlazeFL 2.0.3, run by the Python of its environment.

    python job_blazefl.py --processes=N DATA ROUNDS

Clients are trained in processes that share memory, or, with 1, one after the other:
threads need a Python without the GIL.
"""

import sys
import tempfile
from enum import StrEnum
from pathlib import Path

import torch
import torch.multiprocessing as mp
import torch_task as task
from blazefl.contrib import (
    FedAvgBaseClientTrainer,
    FedAvgBaseServerHandler,
    FedAvgProcessPoolClientTrainer,
)
from blazefl.contrib.fedavg import FedAvgProcessPoolUplinkPackage, FedAvgUplinkPackage
from blazefl.core import SHMHandle, deserialize_model, serialize_model


class Name(StrEnum):
    """Networks."""

    CNN = "cnn"


class Networks:
    """BlazeFL's model selector."""

    def select_model(self, model_name: Name) -> torch.nn.Module:
        return task.network()


class Clients:
    """BlazeFL's partitioned data: what it calls a loader is a client's tensors here."""

    def __init__(self, folder: str):
        self.pixels, self.labels = task.images(folder, "train")
        self.indices = task.client_indices()

    def get_dataloader(self, type_, cid, batch_size, generator):
        return self.pixels[self.indices[cid]], self.labels[self.indices[cid]]


class InTurn(FedAvgBaseClientTrainer):
    """One client after the other, each with its twenty steps."""

    def train(self, model_parameters, train_loader, cid):
        deserialize_model(self.model, model_parameters)
        task.train(self.model, *train_loader)
        parameters = serialize_model(self.model)
        return FedAvgUplinkPackage(cid, parameters, len(train_loader[1]))


class InProcesses(FedAvgProcessPoolClientTrainer):
    """Clients in a pool of processes."""

    @staticmethod
    def worker(config, payload, device, stop_event, *, shm_buffer=None):
        torch.set_num_threads(1)
        model = task.network()
        deserialize_model(model, payload.model_parameters)
        pixels, labels = config.dataset.get_dataloader(None, config.cid, None, None)
        task.train(model, pixels, labels)
        shm_buffer.model_parameters.copy_(serialize_model(model))
        return FedAvgProcessPoolUplinkPackage(config.cid, SHMHandle(), len(labels))


def main(folder: str, rounds: int, processes: int) -> None:
    """Carries the rounds out."""
    torch.manual_seed(4)
    data = Clients(folder)
    test = task.images(folder, "t10k")
    common = {
        "model_selector": Networks(),
        "model_name": Name.CNN,
        "dataset": data,
        "num_clients": task.CLIENTS,
        "batch_size": task.BATCH,
        "device": "cpu",
        "seed": 4,
    }
    server = FedAvgBaseServerHandler(**common, global_round=rounds, sample_ratio=1.0)
    local = {**common, "epochs": 1, "lr": task.LR}
    with tempfile.TemporaryDirectory() as scratch:
        trainer = (
            InTurn(**local)
            if processes == 1
            else InProcesses(
                **local,
                share_dir=Path(scratch) / "share",
                state_dir=Path(scratch) / "state",
                num_parallels=processes,
                ipc_mode="shared_memory",
            )
        )
        for done in range(1, rounds + 1):
            trainer.local_process(server.downlink_package(), server.sample_clients())
            for package in trainer.uplink_package():
                server.load(package)
            task.say(done, server.model, *test)


if __name__ == "__main__":
    mp.set_start_method("spawn")
    main(sys.argv[2], int(sys.argv[3]), int(sys.argv[1].removeprefix("--processes=")))
