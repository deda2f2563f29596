"""Tools for tests of your own processes, stores and environments."""

from theus.testing.clock import FakeClock

__all__ = ["FakeClock"]
