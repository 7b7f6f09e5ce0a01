"""`procline forward`: events of this host's stream to NATS JetStream, or to a file of JSON lines.

    reading      Subscriber → batches, and where to begin
    batches      what one message carries, and how events become batches
    memory       batches that wait, in memory
    spool        batches that wait, on disk
    sending      batches → JetStream, once and in order
    connection   one connection to a server: TLS, credentials, requests
    stored       what the server holds already
    lines        events → JSON lines, in a file that is rotated
    figures      counters, for Prometheus and the status
    forwarder    all of these together, until a signal ends them

Only this package and `pipeline.fleet`, which receives these messages, need the NATS client.

The package does not keep events for good and does not answer questions about them (`pipeline.fleet` does both). It does
not delay the daemon, because it reads the stream as any subscriber does.
"""
