"""Fuzzing of everything that decodes bytes from outside; see README.md."""
