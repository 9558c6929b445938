"""Settings of the operator: flags before the environment before the default."""

from __future__ import annotations

import argparse
from dataclasses import fields

import pytest

from dsort_api.reasons import DSortError, Reason
from dsort_cli.main import main
from dsort_operator.settings import Settings, add_flags, flag_of, variable_of


def load(*flags: str, **environment: str) -> Settings:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return Settings.load(vars(parser.parse_args(["--image=dsort:1", *flags])), environment=environment)


def test_a_flag_comes_before_the_environment_and_that_before_the_default() -> None:
    assert load().metrics_port == 8080
    assert load(DSORT_METRICS_PORT="1").metrics_port == 1
    assert load("--metrics-port=2", DSORT_METRICS_PORT="1").metrics_port == 2
    assert load(DSORT_METRICS_PORT="").metrics_port == 8080


def test_lists_labels_and_switches() -> None:
    settings = load(
        "--watch-namespaces=a, b,",
        "--operator-pod-labels=app=dsort,part=",
        "--allow-host-paths",
        DSORT_NETWORK_POLICY="true",
        DSORT_LEADER_ELECTION="False",
    )
    assert settings.watch_namespaces == ("a", "b")
    assert settings.operator_pod_labels == {"app": "dsort", "part": ""}
    assert settings.allow_host_paths
    assert settings.network_policy
    assert not settings.leader_election
    assert not load("--allow-host-paths=false", DSORT_ALLOW_HOST_PATHS="true").allow_host_paths


@pytest.mark.parametrize(
    ("flags", "environment", "says"),
    [
        (["--metrics-port=70000"], {}, "--metrics-port: must be a port, 0 to 65535, not '70000'"),
        ([], {"DSORT_METRICS_PORT": "x"}, "DSORT_METRICS_PORT: must be a port, 0 to 65535, not 'x'"),
        (["--log-format=xml"], {}, "--log-format: must be one of json, text, not 'xml'"),
        ([], {"DSORT_ALLOW_HOST_PATHS": "1"}, "DSORT_ALLOW_HOST_PATHS: must be true or false, not '1'"),
        (["--operator-pod-labels=app"], {}, "--operator-pod-labels: must be name=value"),
        (["--image="], {}, "--image or DSORT_IMAGE: the workers' image is needed"),
        (["--network-policy"], {}, "--network-policy needs --operator-pod-labels"),
    ],
)
def test_a_wrong_value_is_named_with_its_source(
    flags: list[str], environment: dict[str, str], says: str
) -> None:
    with pytest.raises(DSortError) as caught:
        load(*flags, **environment)
    assert caught.value.reason is Reason.INVALID_SPEC
    assert says in caught.value.message


def test_every_setting_has_a_flag_with_help_that_names_its_variable(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["operator", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for one in fields(Settings):
        assert flag_of(one.name) in text
        assert variable_of(one.name) in text.replace(" ", "") or variable_of(one.name) in text
