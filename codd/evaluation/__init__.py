"""Evaluation: how much of the factorised output's loss a coupling gives back, and at what price."""
