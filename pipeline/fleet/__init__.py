"""Events of many hosts in one store: receive them from JetStream, keep them in Parquet files, and answer questions.

`ingest` reads the messages that `procline forward` has sent, and `store` writes them into files with DuckDB.
`catalogue` records in SQLite which files and which numbers of events are stored. `open_store` opens both read-only.
docs/fleet.md describes the files, the views and the limits.

The package does not read the tables or the stream of an instance, and does not send messages to JetStream.
"""
