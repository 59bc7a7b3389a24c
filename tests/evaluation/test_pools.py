"""What stands for a tile: what held-out blocks prefer; of quantities the fewest features that do as well."""

import numpy as np

from fusion.evaluation.features import Features
from fusion.evaluation.pools import chosen_pool


def features(x, y):
    blocks = np.repeat(np.arange(8), len(x) // 8).astype(str)
    return Features(
        x.astype(np.float32), y[:, None], tuple(map(str, range(len(x)))), "regression", ("y",), None, blocks
    )


def test_the_pool_that_holds_the_signal_is_taken():
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(160, 4))
    y = signal[:, 0] + 0.1 * rng.normal(size=160)
    pools = {"mean": features(rng.normal(size=(160, 4)), y), "tokens": features(signal, y)}
    assert chosen_pool(pools) == "tokens"


def test_of_classes_the_best_pool_is_taken_however_many_its_features():
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(160, 6))
    y = signal[:, :2].argmax(1)
    blocks = np.repeat(np.arange(8), 20)
    few, many = (
        Features(
            signal[:, columns].astype(np.float32),
            y,
            tuple(map(str, range(160))),
            "multiclass",
            ("a", "b"),
            None,
            blocks,
        )
        for columns in (slice(0, 1), slice(0, 6))
    )
    assert chosen_pool({"tokens": few, "seasons": many}) == "seasons"


def test_of_pools_that_do_as_well_the_one_with_fewest_features_is_taken():
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(160, 4))
    y = signal[:, 0] + 0.5 * rng.normal(size=160)
    more = np.concatenate([signal, signal[:, :1] + 0.5 * rng.normal(size=(160, 1))], 1)
    few, many = features(signal, y), features(more, y)
    assert chosen_pool({"seasons": many, "tokens": few}) == "tokens"
    assert chosen_pool({"tokens": few, "seasons": many}) == "tokens"
