"""What an event does to the tables.

It does not decide when an event is applied (`merge`), and it sends nothing.
"""
