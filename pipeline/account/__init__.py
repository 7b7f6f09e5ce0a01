"""What processes have used, summed up.

Modules: `usage` reads what each process has used, from the tables and of live processes from /proc; `sums` adds it up
by a key and for whole trees; `folded` writes the stacks of a flame graph.

The package reads entries in their JSON form. It prints nothing and chooses no processes; see `pipeline.select`.
"""
