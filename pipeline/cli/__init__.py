"""The command `procline`: one module for each subcommand, and shared functions.

This package parses options, calls the other packages and prints the results. It does not implement the functions
themselves.
"""
