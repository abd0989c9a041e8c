"""Python in the configuration: the `py_*` directives. conf.py declares them."""
