"""Layers that reach the machine's matmul speed inside a loop over clients.

A convolution with one kernel per client (`vmap`) becomes a grouped convolution, and
on XLA:CPU a convolution inside a loop is not the library one; both are several times
slower than a matmul. So `Conv` offers four lowerings of the same function:

* `patches`: gather the k*k shifted copies of the image and multiply by the kernel
  as a matrix. Under `vmap` it becomes a batched matmul.
* `blocked`: the same for a few images at a time, so that the patches stay in a CPU's
  cache.
* `winograd`: 3x3 kernels with fewer multiplications where that is faster (module
  `winograd`; on small or strided maps module `taps`), everything else as `blocked`.
* `native`: `lax.conv_general_dilated`.

Where a 2x2 max pooling follows at once, all but `native` compute one stride-2
convolution for each of the four positions of a window, so that pooling is an
elementwise maximum and no full-size map is written.

Which one is faster is measured per backend by `launch/bench.py`. Images are
[B, H, W, C]. All layers take PyTorch's conventions for padding, initialisation and
running statistics, because the published numbers were made with them.
"""

from fedjax_sim.models.layers.blocks import in_groups
from fedjax_sim.models.layers.convolution import Conv
from fedjax_sim.models.layers.dense import Dense
from fedjax_sim.models.layers.initialization import he_fan_out
from fedjax_sim.models.layers.normalization import BatchNorm, InstanceNorm
from fedjax_sim.models.layers.pooling import avg_pool, max_pool, upsample

__all__ = [
    "BatchNorm",
    "Conv",
    "Dense",
    "InstanceNorm",
    "avg_pool",
    "he_fan_out",
    "in_groups",
    "max_pool",
    "upsample",
]
