"""Layouts of the shared segments, for Python, C and Cython. Nothing here maps or changes a segment.
"""
