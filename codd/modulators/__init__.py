"""Modulators: a denoiser's hidden states turned into circuit parameters or latent potentials."""
