"""Strategies of hypothesis: socket addresses, and the keys that UDP listeners know clients by."""

from hypothesis import strategies as st

hosts4 = st.ip_addresses(v=4).map(str)
hosts6 = st.ip_addresses(v=6).map(str)
ports = st.integers(0, 65_535)
words = st.integers(0, (1 << 32) - 1)
paths = st.text(st.characters(exclude_categories=("Cs",)), max_size=25)
sockaddrs = st.one_of(
    st.none(),
    paths,
    st.binary(max_size=108),
    st.tuples(hosts4, ports),
    st.tuples(hosts6, ports, words, words),
)
with_port = st.one_of(st.tuples(hosts4, ports), st.tuples(hosts6, ports, words, words))
keys = st.one_of(sockaddrs, st.tuples(with_port, st.binary(max_size=300)))
