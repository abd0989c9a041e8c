"""Processes: cycle, master, workers, signals, the command line."""
