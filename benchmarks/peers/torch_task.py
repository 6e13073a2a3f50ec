"""The work of the job for peers that run PyTorch: data, network, evaluation.

Images are normalised once and stay in memory, which is the fastest way that these
simulators offer.
"""

import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

CLIENTS, BATCH, STEPS, LR, MOMENTUM = 20, 64, 20, 0.05, 0.9
MEAN, STD = 0.2859, 0.3530


def images(folder: str, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Fashion-MNIST: f32 [n, 1, 28, 28] normalised, i64 [n]; `split` train or t10k."""
    raw = Path(folder) / "FashionMNIST" / "raw"
    pixels = np.fromfile(raw / f"{split}-images-idx3-ubyte", np.uint8, offset=16)
    labels = np.fromfile(raw / f"{split}-labels-idx1-ubyte", np.uint8, offset=8)
    values = (pixels.reshape(-1, 1, 28, 28).astype(np.float32) / 255 - MEAN) / STD
    return torch.from_numpy(values), torch.from_numpy(labels.astype(np.int64))


def client_indices() -> list[torch.Tensor]:
    """The 3000 images of each client."""
    order = torch.randperm(60_000, generator=torch.Generator().manual_seed(4))
    return list(order.chunk(CLIENTS))


def network() -> nn.Module:
    """Convolutions 3x3 to 30 and 50 channels, each with pooling; 100 and 10 units."""
    return nn.Sequential(
        nn.Conv2d(1, 30, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(30, 50, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(1250, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )


def train(model: nn.Module, pixels: torch.Tensor, labels: torch.Tensor) -> None:
    """A client's steps in a round: 20 batches, drawn without repetition."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)
    order = torch.randperm(len(labels))
    for step in range(STEPS):
        batch = order[step * BATCH : (step + 1) * BATCH]
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(pixels[batch]), labels[batch])
        loss.backward()
        optimizer.step()


@torch.no_grad()
def say(done: int, model: nn.Module, pixels: torch.Tensor, labels: torch.Tensor):
    """Evaluates, and prints the line by which the time of a round is taken."""
    model.eval()
    right = sum(
        int((model(x).argmax(1) == y).sum())
        for x, y in zip(pixels.split(1000), labels.split(1000), strict=True)
    )
    accuracy = 100 * right / len(labels)
    print(f"round {done} {time.monotonic():.3f} {accuracy:.2f}", flush=True)
