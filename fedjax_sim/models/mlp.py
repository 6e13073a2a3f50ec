"""A multi-layer perceptron."""

import flax.linen as nn
from jax import Array

from fedjax_sim.models.layers import Dense


class MLP(nn.Module):
    """Fully connected network with ReLU, [B, H, W, C] -> logits [B, num_classes]."""

    num_classes: int
    widths: tuple[int, ...] = (64,)

    @property
    def last_layer(self) -> str:
        """Name of the last linear layer."""
        return f"fc{len(self.widths) + 1}"

    @nn.compact
    def __call__(
        self, x: Array, *, train: bool = False, mask: Array | None = None
    ) -> Array:
        del train, mask  # no running statistics, no coupling between samples
        x = x.reshape(x.shape[0], -1)
        for i, width in enumerate(self.widths):
            x = nn.relu(Dense(width, name=f"fc{i + 1}")(x))
        return Dense(self.num_classes, name=self.last_layer)(x)
