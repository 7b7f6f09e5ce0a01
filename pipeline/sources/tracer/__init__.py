"""The source for tracers in containers: receive their frames over a socket and write their records into a ring.

It does not trace anything itself. Tracers send their frames with `pipeline.client.frame_sender`.
"""
