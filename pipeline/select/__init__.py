"""Which processes a command is about, and what an entry or an event says of its program.

Modules: `selection` decides whether a process is selected by user, unit, container, path or subtree; `programs` names
the program that a process runs, a script before its interpreter; `units` finds the systemd unit of a cgroup; `times`
reads a point in time or a period that somebody typed; `container_names` says what the runtimes' files on this host know
of the container of an entry.

The package reads entries and events in their JSON form. It does not read the tables, and it prints nothing.
"""
