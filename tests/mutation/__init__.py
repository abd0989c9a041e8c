"""Mutation testing: whether the tests notice a change of one line."""
