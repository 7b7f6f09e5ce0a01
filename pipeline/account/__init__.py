"""Sums of the resources that processes have used.

Modules: `usage` has what one process has used, from its entry or, if it is alive, from a function of the caller; `sums`
adds it up by a key and for whole trees; `folded` writes the stacks of a flame graph.

The package reads entries in their JSON form. It reads no files, prints nothing and chooses no
processes; see `pipeline.host.processes` and `pipeline.select`.
"""
