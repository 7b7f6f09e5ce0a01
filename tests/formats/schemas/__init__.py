"""The parts of the published schemas that documents of Procline use, and checks of documents against them.

`make.py` writes the JSON files from packages that carry the schemas. Each file names its source, version and licence.
`errors` of each module returns what is wrong with a document, and `has` whether the schema has a field.
"""
