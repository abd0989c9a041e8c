"""What all features share: sessions, phases, variables, values, servers, and what a balancer promises."""
