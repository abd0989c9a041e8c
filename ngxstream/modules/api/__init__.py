"""The API: HTTP on a server of the stream block, serving what all modules show of themselves."""
