"""Load programs for what no tool does. Each runs in a process of its own and prints JSON lines."""
