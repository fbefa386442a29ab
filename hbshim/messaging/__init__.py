"""Messaging over AMQP: CALL, CAST, FANOUT and NOTIFY, whichever client library is beneath."""
