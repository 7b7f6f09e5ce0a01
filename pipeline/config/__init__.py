"""Settings of an instance: the schema, loading from file, environment and options, and the documented file.

It does not decide what a setting means; each setting is interpreted where it is used.
"""
