"""Circuits of single nodes on the CPU: one compiled pass over all nodes, in tiles of the batch."""
