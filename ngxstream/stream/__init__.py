"""What all features share: sessions, phases, variables, values, servers, upstreams."""
