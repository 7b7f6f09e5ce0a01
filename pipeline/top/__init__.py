"""`procline top`: the processes of a host on the screen of a terminal, as they start, change and end.

Twice a second `feed` reads the images of a period from the tables, and `processes` arranges them as the processes of
one moment. `order` puts these into lines, and `rates` counts the starts and ends. These modules work on numpy arrays,
and a name is decoded only for a line that is visible (`facts`) or must be compared. The other modules draw: `app` and
its widgets use textual.

It neither follows the stream of events, which would cost more at high rates, nor changes anything on the host.
"""
