"""From structure to plan: numpy only, no parameter values."""
