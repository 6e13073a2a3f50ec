"""The same networks as an eager PyTorch loop, one client after the other.

Measured only where PyTorch is installed: `pip install 'fedjax_sim[bench]'`.
"""

from collections.abc import Callable
from typing import Any

try:
    import torch
    from torch import nn
except ImportError:
    torch = None


def torch_loop(
    name: str,
    options: dict[str, Any],
    shape: tuple[int, int, int],
    batch: int,
    steps: int,
) -> Callable[[], None] | None:
    """A function that carries out `steps` steps of SGD; None without PyTorch."""
    if torch is None:
        return None
    height, _, channels = shape
    if name in ("cnn", "wide_cnn"):
        wide = name == "wide_cnn" or channels == 3
        network = _cnn(height, channels, wide, options.get("padding", 0))
    else:
        network = {"convnet": _convnet, "resnet18": _resnet18}[name](channels)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = network.to(device)
    optimizer = torch.optim.SGD(network.parameters(), 0.01, 0.9)
    images = torch.randn(batch, channels, *shape[:2], device=device)
    labels = torch.zeros(batch, dtype=torch.long, device=device)

    def loop():
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images), labels).backward()
            optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return loop


def _cnn(height: int, channels: int, wide: bool, padding: int):
    a, b, c = (32, 64, 512) if wide else (30, 50, 100)
    size = ((height - 2 + 2 * padding) // 2 - 2 + 2 * padding) // 2
    return nn.Sequential(
        nn.Conv2d(channels, a, 3, padding=padding),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(a, b, 3, padding=padding),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(b * size * size, c),
        nn.ReLU(),
        nn.Linear(c, 10),
    )


def _convnet(channels: int):
    layers: list[Any] = []
    for inputs in (channels, 128, 128):
        layers += [nn.Conv2d(inputs, 128, 3, padding=1), nn.GroupNorm(128, 128)]
        layers += [nn.ReLU(), nn.AvgPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(2048, 10))


def _resnet18(channels: int):
    stem = [nn.Conv2d(channels, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64)]
    stem += [nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    blocks = []
    for stage in range(4):
        width = 64 * 2**stage
        stride = 1 if stage == 0 else 2
        blocks.append(_basic_block(max(width // 2, 64), width, stride))
        blocks.append(_basic_block(width, width, 1))
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10)]
    return nn.Sequential(*stem, *blocks, *head)


def _basic_block(inputs: int, outputs: int, stride: int):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.main = nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
                nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
                nn.BatchNorm2d(outputs),
            )
            self.side = nn.Identity()
            if stride > 1 or inputs != outputs:
                self.side = nn.Sequential(
                    nn.Conv2d(inputs, outputs, 1, stride, bias=False),
                    nn.BatchNorm2d(outputs),
                )

        def forward(self, x):
            return torch.relu(self.main(x) + self.side(x))

    return Block()
