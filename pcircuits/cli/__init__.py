"""The command `pcircuits`: one file a command, arguments and calls only."""
