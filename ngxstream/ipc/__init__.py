"""What processes of one service say to each other: bytes with a schema, by checked ports."""
