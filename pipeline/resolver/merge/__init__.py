"""Frames in, events in order out.

It does not change the tables.
"""
