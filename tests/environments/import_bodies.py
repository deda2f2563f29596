"""Functions that import in their bodies; the module itself loads anywhere."""


def in_the_middle(mark):
    open(mark, "w").close()  # must not happen where numpy does not load
    if mark:

        def inner():
            import numpy as np

            return np.arange(3).sum()

    return int(inner())


def prepared_for_anything():
    try:
        import a_module_that_nobody_has
    except ImportError:
        a_module_that_nobody_has = None
    try:
        from json import a_name_that_it_lacks
    except ImportError:
        a_name_that_it_lacks = None
    from xml.etree import ElementTree

    return a_module_that_nobody_has, a_name_that_it_lacks, ElementTree.__name__


def relative():
    from ..package import name, other  # noqa: TID252 - read, never run
    from . import sibling

    return sibling, name, other


def add_one(ctx):
    ctx.domain["count"] += 1
    return ctx.domain["count"]


def change_count(ctx):
    ctx.domain.count += 1
    return ctx.domain.count


def has_loaded(*names):
    import sys

    return sorted(name for name in names if name in sys.modules)


def log_late(level):
    import logging

    logging.getLogger("late").log(level, "late")
    return logging.getLogger("late").getEffectiveLevel()


def log_with_context(ctx):
    ctx.log.error("with context")
