"""Messages between processes: sockets and their authentication, questions of readers, messages of agents.

It does not interpret what it carries. `frames` goes from sources to the resolver, `stream` from it to subscribers.
"""
