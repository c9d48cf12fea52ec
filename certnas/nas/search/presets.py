"""The published hyper-parameters, as tables of a `SearchConfig`; values that a table does not set are its defaults."""

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    # Liu et al. 2019, A.1, first order; algorithm.options.order = 2 is their second order.
    "darts": {"algorithm": {"name": "darts", "options": {"order": 1}}, "data": {"name": "cifar10"}},
    # Xu et al. 2020, section 4.2.
    "pc-darts": {
        "algorithm": {"name": "pc-darts", "options": {"k": 4}},
        "data": {"name": "cifar10"},
        "batch_size": 256,
        "weights": {"lr": 0.1, "lr_min": 0.0},
        "alpha": {"lr": 6e-4, "warmup": 15},
    },
    # Wang et al. 2021, section 4.1.2: six nodes, two of which are inputs and one the output; second order.  The
    # paper defines neither "the global lower bound" nor lr_min; see certnas.nas.metrics.READINGS.
    "dsrna-cb": {
        "algorithm": {"name": "darts", "options": {"order": 2}},
        "metric": {"name": "cb", "gamma": 0.01},
        "data": {"name": "cifar10"},
        "supernet": {"nodes": 3},
        "batch_size": 256,
        "weights": {"lr": 0.1, "lr_min": 0.0},
        "alpha": {"lr": 6e-4, "weight_decay": 3e-4},
    },
    "dsrna-jacobian": {
        "algorithm": {"name": "darts", "options": {"order": 2}},
        "metric": {"name": "jacobian", "gamma": 0.01},
        "data": {"name": "cifar10"},
        "supernet": {"nodes": 3},
        "batch_size": 128,
    },
    # Mok et al. 2021, section 5.1: R takes part in the last 10 of 60 epochs; h = 1.5 in normalised pixels.
    "advrush": {
        "algorithm": {"name": "darts", "options": {"order": 1}},
        "metric": {"name": "curvature", "gamma": 0.01, "options": {"warmup": 50, "h": 0.37}},
        "data": {"name": "cifar10"},
        "epochs": 60,
        "batch_size": 32,
    },
}
"""Preset name -> table."""

FITTED: dict[str, dict[str, Any]] = {
    "digits": {"supernet": {"channels": 8, "layers": 3, "nodes": 3}},
    "mnist": {"supernet": {"channels": 8, "layers": 5}},
    "fashion-mnist": {"supernet": {"channels": 8, "layers": 5}},
}
"""Data set -> supernet size for its small images; used if no preset requests a paper's size."""
