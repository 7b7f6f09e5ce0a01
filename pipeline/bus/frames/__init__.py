"""Frames: batches of records, stored as columns, that a source sends to the resolver.

This package encodes and decodes frames. It does not send them; a source does that with a socket of
`pipeline.bus.sockets`.
"""
