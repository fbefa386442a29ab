"""CALL, CAST and NOTIFY: hbshim's drivers beside oslo.messaging's own, and beside work by hand."""
