"""Trainings of some tenths of a second, for pools: pure Python, numpy, scikit-learn."""

from __future__ import annotations

import os
import random
import signal


def plain(seed: int) -> float:
    """A perceptron in pure Python."""
    rng = random.Random(seed)
    rows = [[rng.random() for _ in range(10)] for _ in range(400)]
    labels = [1 if sum(row) > 5 else -1 for row in rows]
    weights = [0.0] * 10
    for _ in range(200):
        for row, label in zip(rows, labels, strict=True):
            if label * sum(w * x for w, x in zip(weights, row, strict=True)) <= 0:
                weights = [w + 0.1 * label * x for w, x in zip(weights, row, strict=True)]
    return sum(weights)


def with_numpy(seed: int) -> float:
    """A logistic regression by gradient descent."""
    import numpy as np

    rng = np.random.default_rng(seed)
    rows = rng.random((3000, 20))
    labels = rows.sum(axis=1) > 10
    weights = np.zeros(20)
    for _ in range(400):
        weights -= 0.01 * rows.T @ (1 / (1 + np.exp(-rows @ weights)) - labels) / 3000
    return float(weights.sum())


def with_sklearn(seed: int) -> float:
    """A small forest."""
    import numpy as np
    from sklearn.ensemble import RandomForestClassifier

    rows = np.random.default_rng(seed).random((2000, 20))
    forest = RandomForestClassifier(60, random_state=seed).fit(rows, rows.sum(axis=1) > 10)
    return float(forest.score(rows, rows.sum(axis=1) > 10))


def loaded_numpy() -> str:
    """Needs numpy, and does nothing with it."""
    import numpy as np

    return np.__version__


def loaded_sklearn() -> str:
    """Needs what the forest needs, and does nothing with it."""
    import sklearn.ensemble

    return sklearn.__version__


def die() -> None:
    """Takes its process along."""
    os.kill(os.getpid(), signal.SIGKILL)
