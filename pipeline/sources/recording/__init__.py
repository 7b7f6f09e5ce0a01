"""Recordings: write the frames of a capture to a file, and replay them into an instance.

It does not capture events: a shard or the proc connector does.
"""
