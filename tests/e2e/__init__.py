"""The real server process, clients written by others, and real input."""
