"""Secrets, which must not be stored or shown: rules that find them in arguments and environments.

It does not decide which arguments a process has: the sources and `pipeline.procfs` read those.
"""
