"""The messaging driver over ZeroMQ: processes send to each other, without a broker between them."""
