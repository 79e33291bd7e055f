"""Couplings: a denoiser's factorised output times a circuit, as exact joint distributions."""
