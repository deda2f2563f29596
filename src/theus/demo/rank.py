"""Work for a core: which pages do the others lead to? (PageRank, in plain Python.)"""

from __future__ import annotations

from theus import process

Graph = dict[str, list[str]]


def rank(graph: Graph, rounds: int = 1000) -> list[str]:
    """The names of the pages, the one that most ways lead to first."""
    score = dict.fromkeys(graph, 1.0)
    for _ in range(rounds):
        given = dict.fromkeys(graph, 0.15)
        for name, links in graph.items():
            for link in links:
                given[link] += 0.85 * score[name] / len(links)
        score = given
    return sorted(score, key=lambda name: (-score[name], name))


rank_beside = process(rank)  # nobody said what it does: it runs in a thread, beside the loop
rank_apart = process(rank, nature="cpu")  # it computes: it runs on another core
