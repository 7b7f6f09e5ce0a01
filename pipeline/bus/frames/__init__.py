"""Frames: batches of records, as columns, on their way from a source to the resolver.

It does not send them: a source does, over a socket of `pipeline.bus.sockets`.
"""
