"""Stack files as compose and `docker stack deploy` read them, for the latter turned into the service specs of Docker's API."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

JSON = dict[str, Any]
NAMESPACE = "com.docker.stack.namespace"
IMAGE_LABEL = "com.docker.stack.image"

_VARIABLE = re.compile(
    r"\$(?:(?P<escaped>\$)|(?P<named>[A-Za-z_]\w*)"
    r"|\{(?P<braced>[A-Za-z_]\w*)(?:(?P<operator>:?[-?])(?P<word>[^}]*))?\}|(?P<invalid>))"
)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|us|ns|h|m|s)")
_UNITS = {"h": 3_600_000_000_000, "m": 60_000_000_000, "s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}


class DeployFailed(Exception):
    """What compose or `docker stack deploy` would have printed."""


def _interpolate(value: Any, variables: Mapping[str, str], place: str) -> Any:
    if isinstance(value, dict):
        return {
            key: _interpolate(item, variables, f"{place}.{key}" if place else str(key)) for key, item in value.items()
        }
    if isinstance(value, list):
        return [_interpolate(item, variables, f"{place}.[]") for item in value]
    if not isinstance(value, str):
        return value

    def substitute(match: re.Match[str]) -> str:
        if match["escaped"]:
            return "$"
        name = match["named"] or match["braced"]
        if name is None:
            raise DeployFailed(f'invalid interpolation format for {place}: "{value}". You may need to escape any $ with another $.')  # fmt: skip
        found, operator = variables.get(name), match["operator"] or ""
        missing = found is None or (operator.startswith(":") and not found)
        if missing and operator.endswith("-"):
            return str(match["word"])
        if missing and operator.endswith("?"):
            raise DeployFailed(f"invalid interpolation format for {place}: required variable {name} is missing a value: {match['word']}")  # fmt: skip
        return found or ""

    return _VARIABLE.sub(substitute, value)


def _nanoseconds(value: Any, default: str) -> int:
    text = str(value if value is not None else default)
    parts = _DURATION.findall(text)
    if "".join(number + unit for number, unit in parts) != text:
        raise DeployFailed(f'time: invalid duration "{text}"')
    return int(sum(float(number) * _UNITS[unit] for number, unit in parts))


def pairs(given: Any, variables: Mapping[str, str]) -> list[str]:
    """`environment` and `labels` come as a list of KEY=value or as a mapping; a bare KEY is taken from the variables."""
    if isinstance(given, dict):
        return [f"{key}={'' if value is None else value}" for key, value in given.items()]
    return [item if "=" in item else f"{item}={variables.get(item, '')}" for item in map(str, given or [])]


def _ports(service: str, given: Any) -> list[JSON]:
    ports = []
    for item in given or []:
        if isinstance(item, dict):
            published, target = item.get("published"), item.get("target")
        else:
            published, _, target = str(item).partition(":")
            target = target or published
        try:
            ports.append(
                {
                    "Protocol": "tcp",
                    "TargetPort": int(str(target)),
                    "PublishedPort": int(str(published)),
                    "PublishMode": "ingress",
                }
            )
        except ValueError:
            raise DeployFailed(f"service {service}: invalid port specification {item!r}") from None
    return ports


def _health(given: Any) -> JSON | None:
    if not given or given.get("disable"):
        return None
    test = given.get("test")
    return {
        "Test": ["CMD-SHELL", test] if isinstance(test, str) else list(test or []),
        "Interval": _nanoseconds(given.get("interval"), "30s"),
        "Timeout": _nanoseconds(given.get("timeout"), "30s"),
        "Retries": int(given.get("retries", 3)),
        "StartPeriod": _nanoseconds(given.get("start_period"), "0s"),
    }


def _restart_policy(given: Mapping[str, Any]) -> JSON:
    return {
        "Condition": given.get("condition", "any"),
        "Delay": _nanoseconds(given.get("delay"), "5s"),
        "MaxAttempts": int(given.get("max_attempts", 0)),
    }


def _update_config(given: Mapping[str, Any]) -> JSON:
    return {
        "Parallelism": int(given.get("parallelism", 1)),
        "FailureAction": given.get("failure_action", "pause"),
        "Monitor": _nanoseconds(given.get("monitor"), "5s"),
        "MaxFailureRatio": 0,
        "Order": given.get("order", "stop-first"),
    }


def _service(stack: str, name: str, given: Any, variables: Mapping[str, str]) -> JSON:
    if not isinstance(given, dict):
        raise DeployFailed(f"services.{name} must be a mapping")
    if not given.get("image"):
        raise DeployFailed(f"invalid image reference for service {name}: no image specified")
    deploy = given.get("deploy") or {}
    command = given.get("command") or []
    container: JSON = {
        "Image": str(given["image"]),
        "Labels": {NAMESPACE: stack, **dict(pair.split("=", 1) for pair in pairs(given.get("labels"), variables))},
        "Env": sorted(pairs(given.get("environment"), variables)),
        "Args": command.split() if isinstance(command, str) else [str(part) for part in command],
        "StopGracePeriod": _nanoseconds(given.get("stop_grace_period"), "10s"),
        "Isolation": "default",
    }
    if health := _health(given.get("healthcheck")):
        container["Healthcheck"] = health
    labels = dict(pair.split("=", 1) for pair in pairs(deploy.get("labels"), variables))
    return {
        "Name": f"{stack}_{name}",
        "Labels": {IMAGE_LABEL: str(given["image"]), NAMESPACE: stack, **labels},
        "TaskTemplate": {
            "ContainerSpec": container,
            "Resources": {},
            "RestartPolicy": _restart_policy(deploy.get("restart_policy") or {}),
            "Placement": {"Constraints": list((deploy.get("placement") or {}).get("constraints") or [])},
            "ForceUpdate": 0,
            "Runtime": "container",
        },
        "Mode": {"Replicated": {"Replicas": int(deploy.get("replicas", 1))}},
        "UpdateConfig": _update_config(deploy.get("update_config") or {}),
        "EndpointSpec": {"Mode": "vip", "Ports": _ports(name, given.get("ports"))},
    }


def interpolated(file: str, variables: Mapping[str, str]) -> JSON:
    """A stack file's content, `${VAR}` taken from `variables` alone. Raises DeployFailed."""
    try:
        content = yaml.safe_load(file)
    except yaml.YAMLError as error:
        raise DeployFailed(f"yaml: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise DeployFailed("Top-level object must be a mapping")
    if not isinstance(content.get("services"), dict):
        raise DeployFailed("services must be a mapping")
    resolved: JSON = _interpolate(content, variables, "")
    return resolved


def services(stack: str, file: str, variables: Mapping[str, str]) -> list[JSON]:
    """The specs of a stack's services. Raises DeployFailed."""
    resolved = interpolated(file, variables)
    try:
        return [_service(stack, str(name), given, variables) for name, given in resolved["services"].items()]
    except (AttributeError, TypeError, ValueError) as error:
        raise DeployFailed(f"the stack file cannot be used: {error}") from error
