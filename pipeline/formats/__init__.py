"""Events in the field names of OpenTelemetry, the Elastic Common Schema and OCSF, from one table of fields.

`pipeline.formats.convert` has the function for users, `declared` the table. This package does not read or send events.
"""
