"""One workflow, with def and async def, state, messages, emits and failures, means the same in every environment."""

import sys
import zlib

import everywhere_bodies as bodies
import pytest
from everywhere_bodies import Refused, Shelf

from theus import Engine, each, plain
from theus.processes import Process

PLACES = {
    # environment -> the functions that it can run
    "inline": (bodies.weigh, bodies.weigh_with_numpy, bodies.refuse, bodies.tell),
    "loop": (bodies.weigh_and_wait,),
    "thread": (bodies.weigh, bodies.weigh_with_numpy, bodies.refuse, bodies.tell),
    "worker": (bodies.weigh, bodies.weigh_with_numpy, bodies.weigh_and_wait, bodies.refuse, bodies.tell),
}
if sys.version_info >= (3, 14):  # numpy does not load there
    PLACES["interpreter"] = (bodies.weigh, bodies.weigh_and_wait, bodies.refuse, bodies.tell)
WORDS = ["tea", "milk", "tea", "sugar"]
WEIGHED = [{"word": word, "sum": zlib.crc32(word.encode())} for word in WORDS]


@pytest.mark.parametrize(
    ("place", "function"),
    [
        pytest.param(place, function, id=f"{place}-{function.__name__}")
        for place in PLACES
        for function in PLACES[place]
    ],
)
def test_it_means_the_same(place, function):
    heard = []
    with Engine(Shelf(), workers=1) as engine:
        engine.on("weighed", heard.append)
        there = Process(function, environment=place)
        if function is bodies.refuse:
            with pytest.raises(Refused, match="tea"):
                engine.run(each(there), WORDS)
            assert engine.state == Shelf()
        elif function is bodies.tell:
            assert engine.run(each(there), WORDS) == WORDS
            assert sorted(engine.state.notes) == sorted(WORDS)
        else:
            found = engine.run(each(there), WORDS)
            state = plain(engine.state)
            if function is bodies.weigh_with_numpy:
                assert [one.pop("whole").tolist() for one in found] == [[*range(len(word))] for word in WORDS]
                halves = {word: array.tolist() for word, array in state.halves.items()}
                assert halves == {word: [n / 2 for n in range(len(word))] for word in WORDS}
                state.halves.clear()
            assert found == WEIGHED
            assert state == Shelf({"tea": 6, "milk": 4, "sugar": 5}, [], 4)
            assert sorted(heard) == sorted(WORDS)
