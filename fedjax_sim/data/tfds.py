"""Any image classification set of TensorFlow Datasets, read without TensorFlow.

Sets prepared in a format with random access (`array_record`, `parquet`) are read
through data sources, which need no TensorFlow. Preparing a set may need it.
"""

import numpy as np

from fedjax_sim.contracts.dataset import Dataset
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.options import checked
from fedjax_sim.data.dataset import Origin, verified

_EXTRA = "pip install 'fedjax_sim[tfds]'"


def _short(error: Exception) -> str:
    """Returns the kind of `error` and the first line of its text."""
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first}"


@checked("data")
def load_tfds(
    dataset: str,
    *,
    data_dir: str | None = None,
    train_split: str = "train",
    test_split: str = "test",
    download: bool = False,
) -> Dataset:
    """Loads `dataset` (NAME, NAME/CONFIG or NAME:VERSION) from `data_dir`.

    Args:
      dataset: its name in the catalogue.
      data_dir: where sets were prepared; None means TensorFlow Datasets' default.
      train_split: name or slice of a split, e.g. "train[:80%]".
      test_split: of the test images, likewise.
      download: fetch and prepare the set if it is not there.
    """
    origin = Origin(
        f"tfds:{dataset}",
        f"'{dataset.split(':')[0]}' prepared as array_record or parquet "
        "(tfds build --file_format=array_record)",
        "https://www.tensorflow.org/datasets/catalog/overview",
    )
    try:
        import tensorflow_datasets as tfds  # Optional, and slow to import.
    except ImportError as error:
        raise InputError(
            f"data set 'tfds:{dataset}' needs tensorflow-datasets: {_EXTRA}"
        ) from error
    try:
        # The format is asked for only when preparing: a prepared set has its own.
        wanted = {"file_format": "array_record"} if download else {}
        builder = tfds.builder(dataset, data_dir=data_dir, **wanted)
        if download:
            builder.download_and_prepare()
        splits = builder.info.splits
        if not splits:
            raise origin.error(
                f"it is not prepared in '{builder.data_path}' "
                "(the option download=True fetches and prepares it)"
            )
        image_key, label_key = _keys(builder.info, tfds, origin)
        num_classes = builder.info.features[label_key].num_classes
        parts = []
        for split in (train_split, test_split):
            source = builder.as_data_source(split=split)
            examples = [source[position] for position in range(len(source))]
            parts += [
                _stacked([example[image_key] for example in examples], origin),
                np.array([example[label_key] for example in examples], np.int32),
            ]
    except InputError:
        raise
    except ImportError as error:
        raise origin.error(
            f"this step needs TensorFlow ({_short(error)}): {_EXTRA}"
        ) from error
    except NotImplementedError as error:
        raise origin.error(
            f"it is prepared in '{builder.data_path}' as {builder.info.file_format}, "
            f"which has no random access without TensorFlow ({_EXTRA} to convert it)"
        ) from error
    # Whatever else the library raises (unknown name, split, version; no network).
    except Exception as error:
        raise origin.error(_short(error)) from error
    return verified(
        Dataset(origin.name, parts[0], parts[1], parts[2], parts[3], num_classes),
        origin,
        image_shape=None,
        num_train=None,
        num_test=None,
    )


def _keys(info, tfds, origin: Origin) -> tuple[str, str]:
    """Returns the names of the image and of the label feature."""
    keys = info.supervised_keys
    if keys is not None and len(keys) == 2:
        image, label = (info.features[key] for key in keys)
        if isinstance(image, tfds.features.Image) and isinstance(
            label, tfds.features.ClassLabel
        ):
            return keys
    raise origin.error("it is not a set of images with one class label each")


def _stacked(images: list[np.ndarray], origin: Origin) -> np.ndarray:
    shapes = {image.shape for image in images}
    if len(shapes) != 1:
        raise origin.error(f"its images have {len(shapes)} different shapes, not one")
    return np.stack(images)
