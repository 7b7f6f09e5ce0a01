"""Start, watch and end the processes of an instance."""

from pipeline.supervisor.supervisor import Supervisor

__all__ = ["Supervisor"]
