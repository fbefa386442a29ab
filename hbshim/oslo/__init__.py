"""hbshim in oslo.messaging: out-of-tree drivers, chosen by the scheme of the transport URL."""
