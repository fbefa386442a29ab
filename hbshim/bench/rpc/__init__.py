"""CALL, CAST and NOTIFY: hbshim's drivers compared with oslo.messaging's and plain libraries."""
