"""Mutation testing: bugs planted by program, and whether the tests find them."""
