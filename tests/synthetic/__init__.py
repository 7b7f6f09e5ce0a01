"""Generated process storms as frames, and their own test."""
