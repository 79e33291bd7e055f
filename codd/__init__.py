"""Coupled discrete diffusion: the tokens of a masked diffusion model, decoded jointly."""
