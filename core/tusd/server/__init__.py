"""The process: command line, listening sockets, workers and logs."""
