"""Work beside training is waited for, and what it met is not lost."""

import threading

import pytest

from pixart.training.checkpoints.background import Background


def test_work_beside_goes_on_while_its_caller_does_and_in_line_it_is_done_at_once() -> None:
    released, done = threading.Event(), threading.Event()
    beside = Background(beside=True)

    def work() -> None:
        released.wait(10)
        done.set()

    beside.start(work)
    assert not done.is_set()
    released.set()
    beside.finish()
    assert done.is_set()
    beside.close()
    done.clear()
    Background(beside=False).start(done.set)
    assert done.is_set()


def fail() -> None:
    raise ValueError("the disk is full")


def test_a_failure_is_raised_once_where_it_is_waited_for() -> None:
    background = Background(beside=True)
    background.start(fail)
    with pytest.raises(ValueError, match="the disk is full"):
        background.finish()
    background.finish()
    background.start(lambda: None)  # and it can work again
    background.finish()
    background.close()


def test_one_who_has_an_error_already_is_told_and_gets_no_second() -> None:
    background = Background(beside=True)
    background.start(fail)
    assert str(background.settle()) == "the disk is full"
    assert background.settle() is None
    background.close()


def test_2_things_at_a_time_are_a_mistake() -> None:
    background = Background(beside=True)
    background.start(lambda: None)
    with pytest.raises(AssertionError):
        background.start(lambda: None)
    background.finish()
    background.close()
