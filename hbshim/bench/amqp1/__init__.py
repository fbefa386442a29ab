"""Messaging over an AMQP 1.0 router: hbshim, bare proton, oslo.messaging's former driver."""
