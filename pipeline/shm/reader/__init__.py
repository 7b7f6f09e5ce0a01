"""What a reader process imports: the table, entries and their lineage. It never writes to the segments.
"""
