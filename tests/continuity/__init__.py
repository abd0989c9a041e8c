"""What becomes of UDP sessions while the proxy changes; `python -m tests.continuity` tells."""
