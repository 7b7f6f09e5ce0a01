"""This machine and this process: the boot clock, privileges, memory, service notification, the cost of processes.

It does not describe other processes: `pipeline.procfs` reads those.
"""
