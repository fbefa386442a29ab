"""The proxy of a host: takes requests from the network, and hands them to the servers here."""
