"""What the operator is started with: flags, or the environment, or the default; in this order.

The flag of `watch_namespaces` is `--watch-namespaces`, its variable DSORT_WATCH_NAMESPACES, and so on. Lists are
separated by commas, labels are name=value, switches are true or false (a flag alone is true).
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final, Self

from dsort_api.reasons import DSortError, Reason

if TYPE_CHECKING:
    import argparse

PREFIX: Final = "DSORT_"
"""How the variables of the environment begin."""

LOG_FORMATS: Final = ("json", "text")
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
PULL_POLICIES: Final = ("Always", "IfNotPresent", "Never")
_ACCOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _labels(text: str) -> Mapping[str, str]:
    pairs = [part.partition("=") for part in _list(text)]
    if not all(name and sign for name, sign, _ in pairs):
        raise ValueError("must be name=value, separated by commas")
    return {name: value for name, _, value in pairs}


def _switch(text: str) -> bool:
    if text.lower() not in {"true", "false"}:
        raise ValueError("must be true or false")
    return text.lower() == "true"


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 1 << 16):
        raise ValueError("must be a port, 0 to 65535")
    return int(text)


def _one_of(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return text

    return parse


def _namespace() -> str:
    """Of the pod that this is, else default."""
    try:
        with open(_ACCOUNT, encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return "default"


def _setting(parse: Callable[[str], Any], says: str, default: Any = None, *, made: Any = None) -> Any:
    metadata = {"parse": parse, "help": says}
    if made is not None:
        return field(default_factory=made, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of the operator."""

    image: str = _setting(str, "image of the workers: the same as the operator's", "")
    image_pull_policy: str = _setting(
        _one_of(*PULL_POLICIES), f"pull policy of the workers: {', '.join(PULL_POLICIES)}", "IfNotPresent"
    )
    image_pull_secrets: tuple[str, ...] = _setting(
        _list, "names of pull secrets of the workers, in the namespace of each job", ()
    )
    watch_namespaces: tuple[str, ...] = _setting(
        _list, "namespaces whose DSortJobs are run (default: those of the whole cluster)", ()
    )
    allow_host_paths: bool = _setting(
        _switch, "whether jobs may read and write folders of the nodes (file:// urls)", False
    )
    network_policy: bool = _setting(
        _switch, "whether a NetworkPolicy lets only the job's workers and the operator connect to them", False
    )
    operator_namespace: str = _setting(str, "namespace of the operator (default: its pod's)", made=_namespace)
    operator_pod_labels: Mapping[str, str] = _setting(
        _labels, "labels by which NetworkPolicies know the operator's pods", made=dict
    )
    leader_election: bool = _setting(
        _switch, "whether a Lease decides which of several replicas works", False
    )
    lease_name: str = _setting(str, "name of the Lease, in the namespace of the operator", "dsort-operator")
    identity: str = _setting(
        str, "who holds the Lease (default: the host name, which is the pod's)", made=socket.gethostname
    )
    metrics_port: int = _setting(_port, "port of /metrics; 0: any", 8080)
    health_port: int = _setting(_port, "port of /healthz and /readyz; 0: any", 8081)
    log_format: str = _setting(_one_of(*LOG_FORMATS), f"format of the log: {', '.join(LOG_FORMATS)}", "json")
    log_level: str = _setting(_one_of(*LOG_LEVELS), f"least level logged: {', '.join(LOG_LEVELS)}", "info")

    @classmethod
    def load(cls, given: Mapping[str, str | None], *, environment: Mapping[str, str] = os.environ) -> Self:
        """From flags (text by field, None where not given) and the environment.

        Raises DSortError InvalidSpec that names the flag or the variable with a wrong value, and without an image.
        """
        values: dict[str, Any] = {}
        for one in fields(cls):
            flag, variable = flag_of(one.name), variable_of(one.name)
            text, source = given.get(one.name), flag
            if text is None:
                text, source = environment.get(variable), variable
            if text is None or (text == "" and source == variable):
                continue
            try:
                values[one.name] = one.metadata["parse"](text)
            except ValueError as error:
                raise DSortError(Reason.INVALID_SPEC, f"{source}: {error}, not {text!r}") from None
        settings = cls(**values)
        if not settings.image:
            raise DSortError(
                Reason.INVALID_SPEC,
                f"{flag_of('image')} or {variable_of('image')}: the workers' image is needed",
            )
        if settings.network_policy and not settings.operator_pod_labels:
            raise DSortError(
                Reason.INVALID_SPEC,
                f"{flag_of('network_policy')} needs {flag_of('operator_pod_labels')}: the policy would keep the operator out",
            )
        return settings

    def as_json(self) -> str:
        """The settings, for the log."""
        return json.dumps({one.name: getattr(self, one.name) for one in fields(self)})


def flag_of(name: str) -> str:
    """The flag of a field."""
    return "--" + name.replace("_", "-")


def variable_of(name: str) -> str:
    """The environment variable of a field."""
    return PREFIX + name.upper()


def add_flags(command: argparse.ArgumentParser) -> None:
    """Give a command one flag for each setting; what is parsed goes to `Settings.load`, as text."""
    for one in fields(Settings):
        is_switch = one.metadata["parse"] is _switch
        action = command.add_argument(
            flag_of(one.name),
            dest=one.name,
            metavar="true|false" if is_switch else one.name.rsplit("_", 1)[-1].upper(),
            help=f"{one.metadata['help']} (or {variable_of(one.name)})",
        )
        if is_switch:
            action.nargs, action.const = "?", "true"
