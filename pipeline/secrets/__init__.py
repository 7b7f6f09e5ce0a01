"""What must not be stored or shown: rules for secrets, and their application to arguments and environments.

It does not decide which arguments a process has: the sources and `pipeline.procfs` read those.
"""
