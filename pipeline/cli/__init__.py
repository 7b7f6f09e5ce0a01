"""The command `procline`: one module for each subcommand, and what they share.

It does not implement what a command does: it parses options, calls the other packages and prints the result.
"""
