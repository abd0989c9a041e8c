"""The hall: sessions, phases, variables, values, servers and the law of upstreams."""
