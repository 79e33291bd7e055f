"""Generated tasks whose answers a program can check."""
