"""The driver of the steps raises an error at the step that caused it."""

from __future__ import annotations

import pytest

from aicontent.generation.steps import Generating, Query, run


def failing(error):
    def fail():
        raise error

    return fail


def test_what_comes_of_a_step_is_sent_back():
    def steps():
        return (yield Query(lambda: 1)) + (yield Query(lambda: 2))

    assert run(steps()) == 3


@pytest.mark.parametrize("error", [ValueError("a"), KeyboardInterrupt(), GeneratorExit()])
def test_an_error_is_raised_where_the_step_was_asked_for(error):
    seen = []

    def steps():
        try:
            yield Query(failing(error))
        finally:
            seen.append((yield Query(lambda: "released")))

    with pytest.raises(type(error)) as caught:
        run(steps())
    assert caught.value is error
    assert seen == ["released"]


def test_an_error_may_be_handled():
    def steps():
        try:
            yield Query(failing(ValueError()))
        except ValueError:
            return "handled"

    assert run(steps()) == "handled"


@pytest.mark.parametrize("step", [Query, lambda call: Generating(None, None, lambda *_: call())])
def test_stop_iteration_does_not_pass_for_a_result(step):
    def steps():
        return (yield step(failing(StopIteration("a result"))))

    with pytest.raises(RuntimeError, match="StopIteration was raised"):
        run(steps())
