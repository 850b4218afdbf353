"""Sources around other sources: pixels adapted, corrupt tiles filled, objects of the caller's made to travel."""
