"""``theus demo``: the main job on real input, as three proofs on the terminal.

What a user would write is in ``crawl``, ``clean``, ``learn`` and ``scopes``: short, and nothing in them knows
of the demo. ``waits``, ``computes`` and ``cleans`` run it and check each claim; ``screen`` shows it. Nothing is
loaded before it is needed.
"""
