"""Why a row of the peers' table disagrees: (package, rule) -> the reason.

The package "" is ours. That a client with a NaN is counted is said by the table itself.
"""

_ONE_MORE = "sums n - f - 1 distances, one more than the paper"
_PRODUCTS = "distances from products in float32, which lose a common part"

REASONS: dict[tuple[str, str], str] = {
    ("", "bulyan"): "values that tie for the last place share it",
    ("byzfl", "krum"): _ONE_MORE,
    ("byzfl", "multikrum"): _ONE_MORE,
    ("byzpy", "krum"): _ONE_MORE,
    ("byzpy", "multikrum"): _ONE_MORE,
    ("byzpy", "median"): "`torch.median`: of an even number the lower middle value",
    (
        "byzfl",
        "geometric_median",
    ): "nu is 0.1, a length: updates nearer than that count alike; three steps, from 0",
    ("byzfl", "geometric_median (nu 1e-6, 4 steps)"): "starts at 0, not at the mean",
    (
        "byzpy",
        "geometric_median",
    ): "256 steps, or until it stands still: the limit; the paper stops after a few",
    ("byzfl", "meamed"): "`argpartition` decides ties",
    ("byzpy", "meamed"): "around the lower median; the sort decides ties",
    ("byzfl", "smea"): "one power step from a random vector, no eigenvalue",
    ("byzfl", "caf"): "one power step from a random vector; None for equal updates",
    ("byzpy", "caf"): "three power steps from a random vector",
    ("byzfl", "nnm + mean"): "ties as `topk` has them; `cdist` in float32",
    ("byzpy", "nnm + mean"): _PRODUCTS,
    ("byzfl", "monna"): "`argpartition` decides ties",
    ("flwr", "trimmed_mean"): "drops int(share * n) values, of a rounded share",
    ("flwr", "bulyan"): "argsort decides ties",
}
