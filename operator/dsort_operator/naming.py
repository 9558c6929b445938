"""What the children of a DSortJob are called, and the labels they are found by. Pure.

Names are functions of the DSortJob's name and uid: an operator that was killed finds what it has made, and a DSortJob that was
deleted and created anew under its old name never meets the children of the first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

from dsort_api.labels import (
    APP_NAME,
    APP_NAME_LABEL,
    COMPONENT_LABEL,
    FIELD_MANAGER,
    GROUP,
    JOB_NAME_LABEL,
    JOB_UID_LABEL,
    MANAGED_BY_LABEL,
    WORKER_COMPONENT,
)
from dsort_api.podtemplate import LONGEST_LABEL
from dsort_api.spec import VERSION

_LONGEST_STEM: Final = 40


def base_name(name: str, *, uid: str) -> str:
    """The name of all children but the cleanup Job; at most 49 characters, so that pods' names have room for their suffix."""
    stem = name[:_LONGEST_STEM].rstrip("-.").replace(".", "-")
    return f"{stem}-{hashlib.sha256(uid.encode()).hexdigest()[:8]}"


def cleanup_name(name: str, *, uid: str) -> str:
    """The name of the cleanup Job."""
    return f"{base_name(name, uid=uid)}-cleanup"


def labels(name: str, *, uid: str, component: str) -> dict[str, str]:
    """The labels of a child."""
    return {
        APP_NAME_LABEL: APP_NAME,
        COMPONENT_LABEL: component,
        MANAGED_BY_LABEL: FIELD_MANAGER,
        JOB_NAME_LABEL: name if len(name) <= LONGEST_LABEL else base_name(name, uid=uid),
        JOB_UID_LABEL: uid,
    }


def worker_selector(uid: str) -> Mapping[str, str]:
    """The labels that all worker pods of a job have, and no other pod."""
    return {JOB_UID_LABEL: uid, COMPONENT_LABEL: WORKER_COMPONENT}


def owner_reference(name: str, *, uid: str) -> dict[str, Any]:
    """What makes an object a child of the DSortJob: it goes when the DSortJob goes."""
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "DSortJob",
        "name": name,
        "uid": uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
