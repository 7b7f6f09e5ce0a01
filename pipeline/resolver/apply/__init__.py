"""Apply events to the tables, and create tables for a resolver in a program of one's own.

It does not decide when an event is applied (`merge`), and it sends nothing.
"""
