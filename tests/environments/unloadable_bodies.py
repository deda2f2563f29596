"""A module that does not load in a sub-interpreter, because numpy does not."""

from dataclasses import dataclass

import numpy as np


@dataclass
class Weights:
    count: int = 0


def total(numbers):
    return float(np.sum(numbers))
