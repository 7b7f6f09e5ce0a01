"""Context events: what agents on the host report about a process.

It does not receive them from the network: `pipeline.bus.context_events` does.
"""
