"""The public stream as a subscriber receives it: header, sequence numbers, decoding of events.

It does not publish: `pipeline.resolver.stream` encodes and sends what is read here.
"""
