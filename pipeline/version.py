"""The version of Procline, which packages, documents, the command and converted events state."""

__version__ = "0.1.0"
