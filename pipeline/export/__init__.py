"""Processes and figures of an instance in other formats: JSON, DOT, text trees, Prometheus and statsd.

It does not count or collect anything: it reads the tables.
"""
