"""A module of the user's that does not load in a sub-interpreter: numpy does not."""

import numpy as np


def total(number):
    return float(np.arange(number).sum())
