"""Descriptors, readiness, time and bytes. Nothing here knows a directive."""
