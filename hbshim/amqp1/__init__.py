"""AMQP 1.0 without I/O: no socket, clock, thread or lock."""
