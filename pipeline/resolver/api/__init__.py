"""`EBPFResolver` and `EBPFLessResolver`: look up, insert, update and delete processes one at a time.

Live batches do not pass through here: `apply` handles them.
"""
