"""Checks of the tables' invariants, for tests and diagnosis.

This package does not repair anything.
"""
