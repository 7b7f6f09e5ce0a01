"""Names that rows do not contain: users, groups, sessions, symbolic links, file systems and mounts.

This package does not query the host's name service. The resolver does, and writes files that are read here.
"""
