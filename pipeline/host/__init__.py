"""This machine and this process: boot clock, privileges, memory, service notification.

And `processes`: what readers ask `/proc` about a process that they know from the tables, for example whether it lives
and what it has used. And `vitals`: whether the resolver of an instance gives signs of life.

It does not read whole processes, as the tables describe them: `pipeline.procfs` does.
"""
