"""The public stream as a subscriber receives it: message format, sequence numbers, decoding of events.

This package does not publish. `pipeline.resolver.stream` encodes and sends the events.
"""
