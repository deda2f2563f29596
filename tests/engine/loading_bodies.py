"""What only computes, as far as can be seen; but what the module imports does not load in a sub-interpreter."""

import loading_numpy


def adds(number):
    return sum(range(number))


def adds_arrays(number):
    return loading_numpy.total(number)
