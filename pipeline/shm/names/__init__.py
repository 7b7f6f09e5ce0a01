"""Names that rows do not hold: of users, groups, sessions, symbolic links, file systems and mounts.

It does not read the name service of the host: the resolver does, and leaves files that are read here.
"""
