"""The tus protocol without I/O: values, tables and pure functions. Imports only `model` and `errors`."""
