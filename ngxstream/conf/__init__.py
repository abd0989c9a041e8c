"""Text to statements to given values to frozen confs; knows no socket."""
