"""The resolver as a process: assembly, the duty cycle, and the requests of readers.

It does not contain the work of a cycle: the packages beside it merge, apply, repair and publish. It starts and replaces
no process; that is `pipeline.supervisor`.
"""
