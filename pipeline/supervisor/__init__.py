"""Start, watch and end the processes of an instance.

It does not handle events: the sources and the resolver are its workers.
"""

from pipeline.supervisor.supervisor import Supervisor

__all__ = ["Supervisor"]
