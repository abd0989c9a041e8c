"""The tests of ngxstream; ``tests.support`` is the kit they share."""
