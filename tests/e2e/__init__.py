"""A package, so that its fixtures may live as long as its tests: the cluster goes when the last of them has ended."""
