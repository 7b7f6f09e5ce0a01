"""Faults in the code itself, made one at a time, to find out which the tests notice; see README.md."""
