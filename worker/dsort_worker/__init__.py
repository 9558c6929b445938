"""The data plane: one rank of a job. Knows nothing of Kubernetes, nor of who runs it."""
