"""Functions, classes and values that can be imported, for the tests of what crosses to a worker process."""

import functools
import logging
import os
import threading
import time
import warnings
from contextvars import ContextVar
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from typing import NamedTuple

from theus.processes import process

USER = ContextVar("user", default="nobody")
UNSET = ContextVar("unset", default="nothing")
log = logging.getLogger("tests.value_bodies")
CALLS = []


class Color(Enum):
    RED = 1


class Point(NamedTuple):
    x: int
    y: int


@dataclass
class Basket:
    items: dict = field(default_factory=dict)

    def add(self, name, n=1):
        self.items[name] = self.items.get(name, 0) + n
        return self

    @process
    def total(self, ctx, plus):
        return sum(self.items.values()) + plus

    @classmethod
    def of(cls, name):
        return cls({name: 1})


class Scale:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, value):
        return value * self.factor


def add(a, b):
    return a + b


add_ten = functools.partial(add, 10)
scale = Scale(3)
double = lambda x: 2 * x  # noqa: E731


def make_adder(n):
    def adder(value):
        CALLS.append(value)  # the module's real global over there
        return value + n, len(CALLS)

    return adder


def make_recursive():
    def even(n):
        return True if n == 0 else odd(n - 1)

    def odd(n):
        return False if n == 0 else even(n - 1)

    return even


def make_class():
    class Local:
        seen = 0

        def __init__(self, value):
            self.value = value

        def __eq__(self, other):
            return type(other) is type(self) and other.value == self.value

    return Local


def echo(value):
    return value


def kind(value):
    return type(value)


def make_there():
    """A function and a class that only exist in the worker."""

    class There:
        def __init__(self):
            self.pid = os.getpid()

    return lambda x: x + 1, There()


def count_calls():
    CALLS.append(1)
    return len(CALLS)


def users():
    return USER.get(), UNSET.get()


@process
async def users_async(ctx):
    return USER.get(), UNSET.get()


def log_some(n):
    log.debug("detail %d", n)
    log.info("counted %d", n, extra={"theus_n": n, "odd_one": threading.Lock()})
    try:
        raise ValueError("inside")
    except ValueError:
        log.exception("it failed")


def warn():
    warnings.warn("from the worker", UserWarning, stacklevel=1)
    print("printed in the worker")


def where(path):
    return os.path.exists(path), os.getcwd()


def import_by_name(name):
    return __import__(name).ANSWER


def total(array):
    return float(array.sum())


def twice(array):
    return array * 2


@process
def use_domain(ctx):
    ctx.domain.items["tea"] += 1
    return type(ctx.domain).__name__


def variables(names):
    return [os.environ.get(name) for name in names]


def third() -> Decimal:
    return Decimal(1) / 3


SETTING = 1
PRICES = {"tea": 1}


def divided() -> float:
    import numpy

    return float(numpy.float64(1) / 0)


def depth(number):
    return 1 + depth(number - 1) if number else 0


def digits(number):
    return len(str(10 ** (number - 1)))


def local_time(seconds):
    return time.localtime(seconds)


def and_whether_it_has_a_dict(value):
    return value, hasattr(value, "__dict__")


def and_again(value):
    return value, value
