"""Finite automata over tokens, and regular expressions as automata."""
