"""The access log: formats, the places lines go to, and their directives."""
