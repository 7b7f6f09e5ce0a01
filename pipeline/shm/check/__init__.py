"""Invariants of the tables, for tests and diagnosis.

It does not repair anything.
"""
