"""What is published: encode applied events, and send them to subscribers.

It does not change the tables.
"""
