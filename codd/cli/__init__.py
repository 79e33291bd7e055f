"""The console script `codd`: one file a command, arguments and calls."""
