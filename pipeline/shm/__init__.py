"""The shared tables: how they are laid out, written, read and checked.

It does not decide what is in them: `pipeline.resolver` does.
"""
