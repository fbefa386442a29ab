"""hbshim in oslo.messaging: drivers outside of its tree, selected by the transport URL's scheme."""
