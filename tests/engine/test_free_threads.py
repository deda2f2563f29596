"""Where threads compute at the same time, a thread is another core."""

import sys

import pytest

from theus import process
from theus.nature import RECENT, Profile
from theus.placement import Known, place, threads_are_parallel
from theus.protocols import Outcome

FREE = Known(parallel_threads=True)


def work():
    pass


@pytest.mark.parametrize(
    ("options", "known", "expected"),
    [
        ({}, FREE, "thread"),
        ({}, Known(), "worker"),
        ({}, None, "worker"),
        ({"timeout": 1.0}, FREE, "worker"),  # a thread cannot be stopped
        ({"environment": "worker"}, FREE, "worker"),
    ],
)
def test_computing_goes_to_threads_only_where_they_are_parallel(options, known, expected):
    placement = place(process(nature="cpu", **options)(work), blocking=False, debug=False, known=known)
    assert placement.environment == expected


def test_what_turns_out_to_compute_stays_in_a_thread_if_they_are_parallel():
    for parallel, expected in (False, "worker"), (True, "thread"):
        known = Known(
            measured=3, wall=0.1, cpu=0.1, typical_cpu=0.1, holds=1.0, moving=0.001, parallel_threads=parallel
        )
        assert place(process(work), blocking=False, debug=False, known=known).environment == expected


@pytest.mark.parametrize("enabled", [True, False])
def test_the_interpreter_is_asked_whether_its_lock_is_off(enabled, monkeypatch):
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: enabled, raising=False)
    assert threads_are_parallel() is not enabled
    assert Profile(process(work)).known().parallel_threads is not enabled


def test_older_pythons_have_a_lock(monkeypatch):
    monkeypatch.delattr(sys, "_is_gil_enabled", raising=False)
    assert not threads_are_parallel()


def test_a_thread_that_looks_at_what_was_measured_is_not_disturbed_by_one_that_measures():
    profile = Profile(process(work))
    profile.measure(Outcome(wall=0.1, cpu=0.1))
    seen = iter(profile.recent)
    for _ in range(20):
        profile.measure(Outcome(wall=0.2, cpu=0.2))
    assert [sample.wall for sample in seen] == [0.1]
    assert [sample.wall for sample in profile.recent] == [0.2] * RECENT
