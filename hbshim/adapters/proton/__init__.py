"""hbshim beneath qpid-proton, and beneath the copy of it in rabbitmq-amqp-python-client."""
