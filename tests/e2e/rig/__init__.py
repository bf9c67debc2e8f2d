"""What the end-to-end tests run: processes, real backends, clients, and the search for leaks."""
