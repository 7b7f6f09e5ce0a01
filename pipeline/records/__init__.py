"""The vocabulary that all layers share: kinds of events, flags, record layouts and clocks, for Python, C and Cython.

It does not read, send or store records: sources write them, `pipeline.bus.frames.frame` carries them, the resolver
applies them.
"""
