"""Evaluation of plans: log-value, its exact gradient, downward messages, and a slow oracle."""
