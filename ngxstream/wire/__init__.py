"""Protocols without sockets: bytes in, facts out."""
