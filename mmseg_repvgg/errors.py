"""Errors in the user's input, whose messages say what to do."""

from repvgg_runtime.errors import *  # noqa: F403  (its classes are named here again)
