"""Why a peer's row of the table disagrees: (package, rule) -> the reason."""

REASONS: dict[tuple[str, str], str] = {
    ("byzfl", "krum"): "sums n - f - 1 distances, one more than the paper; "
    "`argmin` takes the client with a NaN",
    ("byzfl", "multikrum"): "sums n - f - 1 distances, one more than the paper",
    ("byzpy", "krum"): "sums n - f - 1 distances, from products in float32: those of "
    "nearly equal rows are rounding errors",
    ("byzpy", "multikrum"): "sums n - f - 1 distances, from products in float32: those "
    "of nearly equal rows are rounding errors",
    (
        "byzfl",
        "geometric_median",
    ): "nu is 0.1, a length: below it the plain mean; three steps, from 0",
    ("byzfl", "geometric_median (nu 1e-6, 4 steps)"): "starts at 0, not at the mean",
    ("byzpy", "geometric_median"): "256 steps or until it stands still, from the "
    "median: the limit, where the paper takes few steps",
    ("byzfl", "meamed"): "`argpartition` decides ties",
    ("byzpy", "meamed"): "the sort decides ties",
    ("byzfl", "smea"): "one power step from a random vector is no eigenvalue",
    ("byzfl", "caf"): "one power step from a random vector; None for equal updates",
    ("byzpy", "caf"): "three power steps from a random vector",
    ("byzfl", "nnm + mean"): "ties go as `topk` has them; a NaN spreads",
    ("byzpy", "nnm + mean"): "distances from products in float32",
    ("flwr", "trimmed_mean"): "drops int(share * n) values, of a share that is rounded",
    ("flwr", "krum"): "a NaN client has a NaN score, which `argmin` takes",
}
