"""Fixtures for the tests of generation: requests, single flight and threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest


@pytest.fixture
def ask(Content, user):
    """Request a lesson; each number is a separate request."""

    def ask(number=0, **values):
        return Content.request(user, "lesson", {"number": number}, **values)

    return ask


@pytest.fixture
def get_or_generate(Content, user):
    """Get or generate a lesson; each number is a separate request."""

    def get_or_generate(generate=lambda content: {"title": "En la cafetería"}, number=0, **options):
        return Content.get_or_generate(user, "lesson", {"number": number}, generate, **options)

    return get_or_generate


@pytest.fixture
def elsewhere(database):
    """Run functions in a pool of threads, each with its own connection."""
    with ThreadPoolExecutor(16) as pool:

        def submit(function, *args, **options):
            def run():
                with database.connection_context():
                    return function(*args, **options)

            return pool.submit(run)

        yield submit
