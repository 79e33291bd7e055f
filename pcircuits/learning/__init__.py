"""Learning parameters from data: expected counts, EM and gradient ascent."""
