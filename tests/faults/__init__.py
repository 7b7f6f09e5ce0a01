"""Faults at random moments against a real daemon. Its results are compared with what the workload made.

`python -m tests.faults.run` makes any number of faults; README.md here says what is checked.
"""
