"""This machine and this process: boot clock, privileges, memory, service notification, the cost of processes.

And what container runtimes recorded about their containers.

It does not describe other processes: `pipeline.procfs` reads those.
"""
