"""The roof: who lives and dies. Cycle, master, worker, signals, command line."""
