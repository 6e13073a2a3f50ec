"""Decodes many small image files into one array."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from fedjax_sim.data.dataset import Origin


def decode(
    paths: Sequence[Path], size: int, origin: Origin, *, resize: bool = False
) -> np.ndarray:
    """Returns uint8 [len(paths), size, size, 3] in the order of `paths`.

    Images of another size are an error unless `resize`, which scales them with
    Pillow's bicubic filter (as torchvision does with images of any size).
    """
    images = np.empty((len(paths), size, size, 3), np.uint8)

    def decode_one(position: int) -> None:
        path = paths[position]
        try:
            with Image.open(path) as file:
                image = file.convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:
            # Pillow reports damaged PNG files as SyntaxError.
            raise origin.error(f"cannot read '{path}' ({error})") from error
        if image.size != (size, size):
            if not resize:
                raise origin.error(
                    f"'{path}' has {image.width}x{image.height} pixels, "
                    f"{size}x{size} expected"
                )
            image = image.resize((size, size), Image.Resampling.BICUBIC)
        images[position] = np.asarray(image)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        # Chunks keep the queue short: CINIC-10 has 270 000 files.
        for start in range(0, len(paths), 4096):
            stop = min(start + 4096, len(paths))
            list(pool.map(decode_one, range(start, stop)))
    return images
