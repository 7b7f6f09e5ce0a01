"""Where events come from: each source turns what it reads into records and sends them to the resolver in frames.

It does not order, merge or apply events: `pipeline.resolver` does.
"""
