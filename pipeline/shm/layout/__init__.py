"""Layouts of the shared segments, for Python, C and Cython.

It does not map or change a segment.
"""
