"""The glasshouse: sans-io codecs, bytes in and facts out, no socket in sight."""
