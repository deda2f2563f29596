"""Workflow graphs of real science (WfCommons) as one flow each, beside the best that any scheduler could do.

Needs `wfcommons`; with `dask` and `distributed` it runs beside Dask, with `ray` beside Ray. A task sleeps for its (scaled) time; its step reads the
keys that its parents wrote, by its contract, and that is all that Theus is told. Since commits come in list order, the list is
that of a plan: in the order in which the steps end if each begins as soon as it can, the longest way to the end first.
"""

from __future__ import annotations

import asyncio
import heapq
import importlib.util
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from typing import Any

from theus import Engine, flow, process
from theus.workflow import Workflow, leaves

TASKS = 1_050
LONGEST = 2.0  #: seconds of the critical path
SLOTS = 16  #: tasks at the same time, where that is limited
RECIPES = {"Montage": "Montage", "Epigenomics": "Epigenomics", "1000Genome": "Genome", "Seismology": "Seismology"}
SEED = 1


@dataclass
class Done:
    done: dict[str, int] = field(default_factory=dict)


@dataclass
class Graph:
    """Tasks with scaled seconds, and what each has to wait for."""

    seconds: dict[str, float]
    parents: dict[str, list[str]]

    @property
    def work(self) -> float:
        return sum(self.seconds.values())

    def least(self, slots: int) -> float:
        """Seconds that any schedule takes with so many at a time: no less than the longest path, nor the work shared out.

        A set of tasks, each of which has at least ``head`` seconds before it and ``tail`` after it, takes at least head +
        work / slots + tail; the best of these bounds, after Fernandez and Bussell (1973). Often it is no more than work /
        slots, but not where the graph begins or ends as a narrow path.
        """
        order = list(TopologicalSorter(self.parents).static_order())
        heads, tails = dict.fromkeys(order, 0.0), dict.fromkeys(order, 0.0)
        for name in order:
            for parent in self.parents[name]:
                heads[name] = max(heads[name], heads[parent] + self.seconds[parent])
        for name in reversed(order):
            for parent in self.parents[name]:
                tails[parent] = max(tails[parent], tails[name] + self.seconds[name])
        least = max(heads[name] + self.seconds[name] + tails[name] for name in order)
        latest_first = sorted(order, key=lambda name: heads[name], reverse=True)
        for tail in sorted(set(tails.values())):
            work = 0.0
            for name in latest_first:
                if tails[name] >= tail:
                    work += self.seconds[name]
                    least = max(least, heads[name] + work / slots + tail)
        return least

    def planned(self, slots: int) -> list[str]:
        """The tasks in the order of their ends, with so many at a time."""
        children: dict[str, list[str]] = {name: [] for name in self.seconds}
        for name, before in self.parents.items():
            for parent in before:
                children[parent].append(name)
        ways: dict[str, float] = {}
        for name in reversed(list(TopologicalSorter(self.parents).static_order())):
            ways[name] = self.seconds[name] + max((ways[child] for child in children[name]), default=0.0)
        missing = {name: len(before) for name, before in self.parents.items()}
        ready = [(-ways[name], name) for name, count in missing.items() if not count]
        heapq.heapify(ready)
        running: list[tuple[float, str]] = []
        now, order = 0.0, []
        while ready or running:
            while ready and len(running) < slots:
                name = heapq.heappop(ready)[1]
                heapq.heappush(running, (now + self.seconds[name], name))
            now, ended = heapq.heappop(running)
            order.append(ended)
            for child in children[ended]:
                missing[child] -= 1
                if not missing[child]:
                    heapq.heappush(ready, (-ways[child], child))
        return order


def generated(recipe: str) -> Graph:
    import numpy
    from wfcommons import WorkflowGenerator
    from wfcommons.wfchef import recipes

    random.seed(SEED)
    numpy.random.seed(SEED)
    found = WorkflowGenerator(getattr(recipes, f"{recipe}Recipe").from_num_tasks(TASKS)).build_workflow()
    parents = {name: list(found.predecessors(name)) for name in found.nodes}
    ends: dict[str, float] = {}
    for name in TopologicalSorter(parents).static_order():
        ends[name] = found.tasks[name].runtime + max((ends[parent] for parent in parents[name]), default=0.0)
    scale = LONGEST / max(ends.values())
    return Graph({name: found.tasks[name].runtime * scale for name in parents}, parents)


async def waits(ctx: Any, *, name: str, seconds: float, parents: list[str]) -> None:
    count = 1 + max((ctx.domain.done[parent] for parent in parents), default=0)
    await asyncio.sleep(seconds)
    ctx.domain.done[name] = count


def blocks(ctx: Any, *, name: str, seconds: float, parents: list[str]) -> None:
    count = 1 + max((ctx.domain.done[parent] for parent in parents), default=0)
    time.sleep(seconds)
    ctx.domain.done[name] = count


def as_flow(graph: Graph, slots: int, body: Callable[..., Any], **options: Any) -> Workflow[Any, Any]:
    steps = []
    for name in graph.planned(slots):
        parents, seconds = graph.parents[name], graph.seconds[name]
        step = process(
            body, reads=[f"done.{parent}" for parent in parents], writes=[f"done.{name}"], idempotent=True, **options
        )
        steps.append(step.bind(name=name, seconds=seconds, parents=parents))
    return flow(*steps)


def through(engine: Engine[Done], graph: Graph, work: Workflow[Any, Any]) -> float:
    """Seconds for the whole graph, the second time: what is found out once is known."""
    for _ in range(2):
        with engine.transaction() as domain:
            domain.done = {}
        started = time.perf_counter()
        engine.run(work)
        seconds = time.perf_counter() - started
        assert list(engine.state.done) == [step.bound["name"] for step in leaves(work)]
    return seconds


def through_dask(graph: Graph) -> float | None:
    if importlib.util.find_spec("distributed") is None:
        return None
    import logging

    from distributed import Client

    with Client(
        processes=False, n_workers=1, threads_per_worker=SLOTS, dashboard_address=None, silence_logs=logging.ERROR
    ) as client:
        for _ in range(2):
            started = time.perf_counter()
            futures: dict[str, Any] = {}
            for name in graph.planned(SLOTS):
                parents = [futures[parent] for parent in graph.parents[name]]
                futures[name] = client.submit(_sleep, graph.seconds[name], parents, key=f"{name}-{started}")
            client.gather(list(futures.values()))
            seconds = time.perf_counter() - started
            del futures
    return seconds


def through_ray(graph: Graph) -> float | None:
    if importlib.util.find_spec("ray") is None:
        return None
    import ray

    ray.init(num_cpus=SLOTS, include_dashboard=False, log_to_driver=False)
    try:
        task = ray.remote(_sleep_after)
        for _ in range(2):
            started = time.perf_counter()
            answers: dict[str, Any] = {}
            for name in graph.planned(SLOTS):
                parents = [answers[parent] for parent in graph.parents[name]]
                answers[name] = task.remote(graph.seconds[name], *parents)
            ray.get(list(answers.values()))
            seconds = time.perf_counter() - started
    finally:
        ray.shutdown()
    return seconds


def _sleep_after(seconds: float, *parents: int) -> int:
    return _sleep(seconds, list(parents))  # Ray waits for what is an argument itself, not for what is in a list


def _sleep(seconds: float, parents: list[int]) -> int:
    time.sleep(seconds)
    return 1 + max(parents, default=0)


def main() -> None:
    if importlib.util.find_spec("wfcommons") is None:
        print("\nGraphs of real workflows: left out, wfcommons is not installed")
        return
    print(
        f"\nGraphs of real workflows, tasks that sleep; x: of the least that is possible, with no limit and with {SLOTS} at a time"
    )
    for title, recipe in RECIPES.items():
        graph = generated(recipe)
        limited, shared = graph.least(SLOTS), max(LONGEST, graph.work / SLOTS)
        with Engine(Done()) as engine:
            free = through(engine, graph, as_flow(graph, TASKS, waits))
        with Engine(Done(), workers=SLOTS) as engine:
            slots = through(engine, graph, as_flow(graph, SLOTS, blocks, nature="cpu"))
        others = {"Dask": through_dask(graph), "Ray": through_ray(graph)}
        beside = "".join(f"  {name} {took / limited:.2f} x" for name, took in others.items() if took is not None)
        print(
            f"  {title:<12} {len(graph.seconds):>5} tasks, at least {LONGEST:.2f} s and {limited:.2f} s"
            f" ({limited / shared:.2f} x of the longest path or the work shared out):"
            f"  Theus {free / LONGEST:.2f} x and {slots / limited:.2f} x{beside}"
        )


if __name__ == "__main__":
    main()
