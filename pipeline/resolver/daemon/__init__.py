"""The resolver as a process: assembly, the duty cycle, and the requests of readers.

What is done in a cycle is implemented in the packages beside it.
"""
