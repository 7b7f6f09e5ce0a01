"""Messages between processes: sockets and their authentication, requests from readers, context events from agents.

The bus does not interpret its messages. `frames` carries records from the sources to the resolver; `stream` carries
events from the resolver to subscribers.
"""
