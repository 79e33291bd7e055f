"""Denoisers: networks that see a partly masked sequence and predict every token at once.

Examples:
    >>> from codd.denoisers import load_denoiser, save_denoiser
    >>> shape = codd.TransformerConfig(num_categories=5, width=8, num_layers=1, num_heads=2)
    >>> save_denoiser("small", codd.TransformerDenoiser(shape, seed=0))
    >>> load_denoiser("small").hidden_size
    8
"""

from codd.denoisers.registry import load_denoiser, save_denoiser
from codd.denoisers.wrapped import wrap

__all__ = ["load_denoiser", "save_denoiser", "wrap"]
