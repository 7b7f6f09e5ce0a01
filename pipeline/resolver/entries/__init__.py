"""Entries of the process cache as Python objects: their fields, and their form in rows and in records.

It does not find or insert processes: `pipeline.resolver.api` does.
"""
