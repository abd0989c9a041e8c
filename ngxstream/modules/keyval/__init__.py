"""keyval: values that are looked up by key and changed while the program runs."""
