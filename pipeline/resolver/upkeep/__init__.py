"""Keep the tables complete beside the events: snapshot, repair, names, sessions, terminals, cgroups.

It does not handle events.
"""
