"""Coupled models in the Language Model Evaluation Harness; needs the extra `eval`."""
