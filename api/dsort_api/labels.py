"""Names that the operator, the workers and those who look at a cluster agree on: labels, ports, and who manages what."""

from __future__ import annotations

from typing import Final

GROUP: Final = "dsort.dev"

APP_NAME_LABEL: Final = "app.kubernetes.io/name"
APP_NAME: Final = "dsort"
COMPONENT_LABEL: Final = "app.kubernetes.io/component"
JOB_COMPONENT: Final = "job"
"""What belongs to a job and is no pod: its definition, its token, its network policy."""
WORKER_COMPONENT: Final = "worker"
CLEANUP_COMPONENT: Final = "cleanup"
MANAGED_BY_LABEL: Final = "app.kubernetes.io/managed-by"
JOB_NAME_LABEL: Final = f"{GROUP}/job-name"
"""The DSortJob's name where it is short enough for a label (63 characters), or else the base name of its children."""
JOB_UID_LABEL: Final = f"{GROUP}/job-uid"
INDEX_LABEL: Final = "batch.kubernetes.io/job-completion-index"
"""Set by Kubernetes on the pods of an Indexed Job: which of them it is."""
QUEUE_LABEL: Final = "kueue.x-k8s.io/queue-name"
"""On a DSortJob: the queue of Kueue that decides when its pods may start."""

FIELD_MANAGER: Final = "dsort-operator"
"""Who writes the status, and the value of MANAGED_BY_LABEL on every child."""
FINALIZER: Final = f"{GROUP}/operator"
"""The only one, on a DSortJob while there is something to end or to take back."""
MANAGED_BY: Final = f"{GROUP}/operator"
"""The value of spec.managedBy that means this operator, as none does."""

WORKER_CONTAINER: Final = "worker"
CLEANUP_CONTAINER: Final = "cleanup"

OOM_KILLED: Final = "OOMKilled"
"""Kubernetes' word for a container that the kernel killed for want of memory. A pod with several ranks says it in its termination
message, as reason: the kernel may kill one of them, and the container itself shows nothing.
"""

METRICS_PORT: Final = 7300
CONTROL_PORT: Final = 7400
DATA_PORT: Final = 7500
"""Ports of a pod's first lane; those of lane n are n higher."""
MOST_LANES: Final = 64
