"""The subcommands that start, check, watch, record and measure an instance: run, wait, stat, doctor, load and others.

Each module with the name of a command contains it. Modules: `settings` reads the options `--config` and `--set`.

The package does not answer questions about single processes.
"""
