"""Several backends as one driver: RPC over one, notifications over another."""
