"""The public stream: encode applied events and send them to subscribers.

This package does not change the tables.
"""
