"""Work for a core, in plain Python: which pages begin alike?"""

from __future__ import annotations

from difflib import SequenceMatcher

from theus import process


def alike(texts: dict[str, str]) -> dict[str, str]:
    """For every text, the name of the other one that is most like it."""
    found = {}
    for name, text in texts.items():
        matcher = SequenceMatcher(b=text, autojunk=False)
        best = 0.0
        for other, its_text in texts.items():
            if other != name:
                matcher.set_seq1(its_text)
                if matcher.real_quick_ratio() > best and matcher.ratio() > best:
                    best, found[name] = matcher.ratio(), other
    return found


alike_beside = process(alike)  # nobody said what it does
alike_apart = process(nature="cpu")(alike)  # it computes
