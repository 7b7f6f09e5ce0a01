"""The subcommands that answer questions about processes: resolve, why, tree, ps, cost and others.

Each module with the name of a command contains it. Modules: `naming` finds the process that an argument names, by pid
or by program; `selecting` has the options that choose processes.

The package attaches to a running instance and reads. It starts none and changes none.
"""
