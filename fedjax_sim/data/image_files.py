"""Decodes many small image files into one array."""

import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil

from fedjax_sim.data.dataset import Origin
from fedjax_sim.data.files import Place, inside, look

_GREY = {"1", "L", "LA", "I;16"}  # Pillow's modes
SUFFIXES = {".png", ".jpg", ".jpeg", ".ppm", ".pgm", ".bmp", ".webp", ".tif", ".tiff"}


def images_in(folder: Place, origin: Origin) -> list[Place]:
    """Returns the images of a folder, by name.

    Raises:
      InputError: the folder does not exist or cannot be listed.
    """
    if not folder.is_dir():
        raise origin.error(f"folder '{folder}' does not exist")
    try:
        return [one for one in inside(folder) if one.suffix.lower() in SUFFIXES]
    except OSError as error:
        raise origin.error(f"'{folder}': {error.strerror}") from error


def decode(
    paths: Sequence[Place],
    size: int | tuple[int, int] | None,
    origin: Origin,
    *,
    resize: bool = False,
    channels: int | None = 3,
) -> np.ndarray:
    """Returns uint8 [len(paths), H, W, channels] in the order of `paths`.

    Images of another size are an error unless `resize`, which scales them with
    Pillow's bicubic filter (as torchvision does with images of any size).

    Args:
      paths: the files.
      size: (H, W), or both at once; None: that of the first image.
      origin: for error messages.
      resize: scale images of another size.
      channels: 3 (RGB) or 1 (grey); None: those of the first image.
    """
    return decode_bytes(
        [path.read_bytes for path in paths],
        lambda k: f"'{paths[k]}'",
        size,
        origin,
        resize=resize,
        channels=channels,
    )


def decode_bytes(
    reads: Sequence[Callable[[], bytes]],
    names: Callable[[int], str],
    size: int | tuple[int, int] | None,
    origin: Origin,
    *,
    resize: bool = False,
    channels: int | None = 3,
) -> np.ndarray:
    """The same of images that lie elsewhere.

    Args:
      reads: give the content of each image.
      names: gives what a message calls the k-th image.
      size, origin, resize, channels: see `decode`.
    """

    from PIL import Image  # only sets of image files need it

    # Pillow reports damaged PNG files as SyntaxError.
    damaged = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)

    def opened(position: int, mode: str | None) -> Image.Image:
        content = b""
        try:
            content = reads[position]()
            with Image.open(io.BytesIO(content)) as file:
                return file.convert(mode)
        except damaged as error:
            seems = f"it looks like {look(content)}, " if content else ""
            reason = str(error) or type(error).__name__
            raise origin.error(
                f"cannot read {names(position)} ({seems}{reason})"
            ) from error

    if (size is None or channels is None) and reads:
        first = opened(0, None)
        size = size or (first.height, first.width)
        channels = channels or (1 if first.mode in _GREY else 3)
    size, channels = size or 1, channels or 3  # of no images
    mode = "RGB" if channels == 3 else "L"
    height, width = (size, size) if isinstance(size, int) else size
    needed = len(reads) * height * width * channels
    room = psutil.virtual_memory().available
    if needed > room:
        raise origin.error(
            f"{len(reads)} images of {width}x{height} pixels need {needed / 1e9:.3g} "
            f"GB, {room / 1e9:.3g} GB of memory are free; take a smaller "
            "config.data.size"
        )
    images = np.empty((len(reads), height, width, channels), np.uint8)

    def decode_one(position: int) -> None:
        image = opened(position, mode)
        if image.size != (width, height):
            if not resize:
                raise origin.error(
                    f"{names(position)} has {image.width}x{image.height} pixels, "
                    f"{width}x{height} expected"
                )
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        images[position] = np.asarray(image).reshape(height, width, channels)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        # Chunks keep the queue short: CINIC-10 has 270 000 files.
        for start in range(0, len(reads), 4096):
            stop = min(start + 4096, len(reads))
            list(pool.map(decode_one, range(start, stop)))
    return images
