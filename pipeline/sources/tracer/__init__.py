"""The source for tracers in containers: their frames, received over a socket and put into a ring.

It does not trace anything itself. Tracers send their frames with `pipeline.client.frame_sender`.
"""
