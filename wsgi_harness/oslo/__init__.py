"""oslo.messaging with hbshim's drivers beside its own: its functional suite, and two failures."""
