"""A package, so that its fixtures may live as long as its tests: the servers go when the last of them has ended."""
