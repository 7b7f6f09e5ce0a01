"""Interfaces for other programs besides the tables: ask about a process, subscribe to events, send frames as a tracer.

This package does not read the tables; `pipeline.shm.reader` does. `pipeline.bus.context_events.ContextSender` sends
context events.
"""
