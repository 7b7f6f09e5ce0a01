"""Invariants of the tables, for tests and diagnosis. It repairs nothing.
"""
