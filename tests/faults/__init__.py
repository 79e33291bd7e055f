"""Faults from outside: kills, interrupts, damaged files, full disks: `python -m tests.faults`."""
