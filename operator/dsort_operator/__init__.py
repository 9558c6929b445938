"""The control plane: a Kubernetes operator that turns a DSortJob into worker pods and drives them."""
