#!/usr/bin/env bash
# blazefl 2.0.3 and torch 2.14.1 on Python 3.12
#
# A researcher gives clients local training of their own by a subclass that overrides
# `train`, first of FedAvgBaseClientTrainer (one client after the other), then, for
# speed, of FedAvgProcessPoolClientTrainer. The own `train` returns 777 as the number of
# samples; the clients have 8.
#
# Expected: both trainers call it.
# Behaviour: the first one does. The workers of the pool call the `train` of the base
# class by that class's name, whichever class started them: the subclass is ignored
# without a word, and every client has trained in the stock way. (What can be overridden
# is `worker`.)
# Output seen:
#   one after the other: [777, 777]
#   in processes, shared_memory: [8, 8]
#   one after the other: [777, 777]
#   in processes, storage: [8, 8]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.12 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q 'blazefl[contrib,reproducibility]==2.0.3' torch==2.14.1
cat > "$folder/pool.py" <<'PY'
import sys
import tempfile
from enum import StrEnum
from pathlib import Path

import torch
import torch.multiprocessing as mp
from blazefl.contrib import FedAvgBaseClientTrainer, FedAvgProcessPoolClientTrainer
from blazefl.contrib.fedavg import (
    FedAvgDownlinkPackage,
    FedAvgProcessPoolUplinkPackage,
    FedAvgUplinkPackage,
)
from blazefl.core import serialize_model
from torch.utils.data import DataLoader, TensorDataset

MARK = 777


class Name(StrEnum):
    LINEAR = "linear"


class Networks:
    def select_model(self, model_name):
        return torch.nn.Linear(3, 2)


class Data:
    def get_dataloader(self, type_, cid, batch_size, generator):
        rows = TensorDataset(torch.ones(8, 3), torch.zeros(8, dtype=torch.long))
        return DataLoader(rows, batch_size=batch_size)

    def set_dataset(self, type_, cid, dataset):
        pass


class InTurn(FedAvgBaseClientTrainer):
    def train(self, model_parameters, train_loader, cid):
        return FedAvgUplinkPackage(cid, model_parameters, MARK)


class InProcesses(FedAvgProcessPoolClientTrainer):
    @staticmethod
    def train(model, model_parameters, train_loader, device, epochs, lr, stop_event, cid):
        return FedAvgProcessPoolUplinkPackage(cid, model_parameters, MARK)


def size(trainer):
    model = serialize_model(torch.nn.Linear(3, 2))
    trainer.local_process(FedAvgDownlinkPackage(model), [0, 1])
    return [package.data_size for package in trainer.uplink_package()]


if __name__ == "__main__":
    mp.set_start_method("spawn")
    common = {
        "model_selector": Networks(),
        "model_name": Name.LINEAR,
        "dataset": Data(),
        "device": "cpu",
        "num_clients": 2,
        "epochs": 1,
        "batch_size": 4,
        "lr": 0.1,
        "seed": 0,
    }
    print("one after the other:", size(InTurn(**common)), flush=True)
    folder = Path(tempfile.mkdtemp())
    pool = InProcesses(
        **common,
        share_dir=folder / "share",
        state_dir=folder / "state",
        num_parallels=2,
        ipc_mode=sys.argv[1],
    )
    print(f"in processes, {sys.argv[1]}:", size(pool), flush=True)
PY
for mode in shared_memory storage; do
  "$folder/venv/bin/python" "$folder/pool.py" "$mode" 2> /dev/null \
    | tr '\r' '\n' | grep -E '^(one|in)' | tee -a "$folder/output"
done
diff - "$folder/output" <<'SEEN'
one after the other: [777, 777]
in processes, shared_memory: [8, 8]
one after the other: [777, 777]
in processes, storage: [8, 8]
SEEN
