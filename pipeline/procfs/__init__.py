"""Read whole processes from `/proc`, with their mounts, cgroup hierarchies, containers, users and terminals.

It returns facts in the form of the records of events (`info`), and the resolver decides what to do with them. It knows
the flags of a row, because these say which facts are known, but it neither opens nor writes tables. Other packages read
single facts from `/proc` themselves, such as what a process has used; `pipeline.proc_text` has the format of both.
"""
