"""Balancers other than round robin, shared zones, and names resolved at run time."""
