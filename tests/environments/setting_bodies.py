"""What a program may set before, and while, it runs: constants of modules and of a class."""

import value_bodies

LIMIT = 1
LOADED = False
TABLE: dict[str, int] = {}


class Rates:
    tax = 1


def limit():
    return LIMIT


def through_another():
    return limit()


def of_a_class():
    return Rates.tax


def of_a_module():
    return value_bodies.SETTING


def load():
    global LOADED  # noqa: PLW0603
    if not LOADED:
        TABLE["tea"] = 3
        LOADED = True
    return TABLE["tea"]


def table():
    return value_bodies.PRICES["tea"]
