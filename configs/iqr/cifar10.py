"""The IQR / Clip-Avg article: success of a hidden backdoor over its poisoning ratio.

    python launch/run.py --config=configs/iqr/cifar10.py:defense=clip_avg,alpha=0.1 \
        --config.data.data_dir=DIR --workdir=runs/iqr

Arguments: see `papers.iqr.protocol`. DIR holds `cifar-10-batches-py`. Printed:
at alpha 0.052 a success (`asr_all`) of about 100 % undefended, 80 % under Clip-Avg,
50 % under the hybrid; 12 % for the strong attack under the hybrid.
"""

from ml_collections import ConfigDict

from fedjax_sim.papers.iqr.protocol import iqr


def get_config(arguments: str = "") -> ConfigDict:
    """One point of the curve."""
    return iqr(
        arguments,
        data={"name": "cifar10", "normalization": "half"},
        model="wide_cnn",
    )
