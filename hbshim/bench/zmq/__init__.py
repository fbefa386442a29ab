"""CALL, CAST, FANOUT and NOTIFY over ZeroMQ: hbshim's driver, bare pyzmq, and RabbitMQ."""
