"""Fleets: several hosts with one service, made of network namespaces and the real programs that
routers and load balancers run beside ngxstream.

`python -m tests.fleet` plays each topology, with ngxstream and with nginx in the same place, and
prints a table; the tests here play short forms of the same.
"""
