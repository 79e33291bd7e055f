"""Few-step accuracy against the cost of reaching it: a circuit beside reinforcement learning."""
