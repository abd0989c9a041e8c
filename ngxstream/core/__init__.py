"""What every layer uses, and what knows no other layer."""
