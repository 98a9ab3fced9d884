"""The jobs, end to end, composed from the library."""
