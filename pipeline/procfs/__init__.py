"""Everything that reads `/proc`: processes, mounts, cgroup hierarchies, containers, users and terminals.

It does not know the shared tables: it returns facts, and the resolver decides what to do with them.
"""
