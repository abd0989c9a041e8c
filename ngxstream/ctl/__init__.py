"""ngxstreamctl: a client of the API, for people at a terminal and for scripts."""
