"""Denoisers: networks that see a partly masked sequence and predict every token at once."""
