"""What the items of a batch do: each leaves a mark when it begins, so that one that ran twice is seen."""

import logging
import os
import threading
import time
from contextvars import ContextVar

from theus import process

USER = ContextVar("batch_user", default="nobody")


def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.002)


@process(nature="cpu")
def hold(item):
    path, here = item
    with open(here, "w"):
        wait_for(path)


@process(nature="cpu")
def say(text):
    logging.getLogger("batch_bodies").warning(text)


@process(nature="cpu")
def act(item):
    number, folder, deed = item
    with open(os.path.join(folder, f"{number}"), "a") as file:
        file.write("x")
    if deed == "raise":
        raise ValueError(f"item {number}")
    if deed == "leave":
        os._exit(3)
    if deed == "lock":
        return threading.Lock()
    if deed == "wait":
        while True:
            time.sleep(0.01)
    if str(deed).startswith("/"):  # wait until that exists
        wait_for(deed)
    if isinstance(deed, int):  # wait until so many have begun
        while len(os.listdir(folder)) < deed:
            time.sleep(0.002)
    return number


@process(nature="cpu")
def size(value):
    return len(value)


@process(nature="cpu")
def user(number):
    return number, USER.get()


@process(nature="cpu")
def halve(number):
    if number % 7 == 3:
        raise ValueError(f"odd luck with {number}")
    return number / 2


@process(nature="cpu")
def alone(item):
    folder, slowly = item
    os.close(os.open(os.path.join(folder, "here"), os.O_CREAT | os.O_EXCL))
    if slowly:
        time.sleep(0.1)
    os.remove(os.path.join(folder, "here"))


@process(nature="cpu")
def stay(item):
    """Run until told to go, and say when it began and that it has ended, whatever ended it."""
    folder, number = item
    with open(os.path.join(folder, f"{number} began"), "a") as file:
        file.write("x")
    try:
        wait_for(os.path.join(folder, f"{number} may go"))
        return number
    finally:
        with open(os.path.join(folder, f"{number} ended"), "a") as file:
            file.write("x")
