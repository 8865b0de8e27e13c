"""From a module's plain arguments to what the services phase is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..settings.wanted import Options as SettingsOptions
from ..settings.wanted import is_secret, wanted
from ..web.trust import Trust
from .judging import Expected
from .opening import Where
from .phase import Options
from .readiness import Readiness


def where(given: Mapping[str, Any]) -> Where:
    """How PROD's services are reached. Raises AlignError for what cannot be used."""
    return Where(
        given["backend"],
        given["stack"],
        given["portainer_url"],
        given["portainer_api_key"],
        given["portainer_username"],
        given["portainer_password"],
        Trust(given["portainer_ca_file"], given["portainer_fingerprint"], given["portainer_insecure"]),
        given["engine_url"],
        given["portainer_environment"],
    )


def options(given: Mapping[str, Any]) -> Options:
    """The phase's Options. Raises AlignError for what cannot be used."""
    names = ("embedding_provider", "embedding_base_url", "embedding_model", "embedding_dimensions")
    values = {name: given[name] for name in names}
    # Validated as the data phase does; only check mode looks at what that phase will have stored.
    settings = wanted(SettingsOptions(**values, extra=given["credentials_extra"])).settings
    return Options(
        task=given["task"],
        mode=given["mode"],
        where=where(given),
        expected=Expected(*(values[name] for name in names)),
        readiness=Readiness(given["prod_url"], Trust(given["application_ca_file"])),
        ready_timeout=given["ready_timeout"],
        environment=given["environment"],
        changed=tuple(given["changed_phases"]),
        foreseen=settings if "data" in given["changed_phases"] else {},
        earlier=tuple(given["earlier"]),
        wait=given["wait"],
        probe_timeout=given["probe_timeout"],
    )


def harmless(values: Mapping[str, object]) -> set[str]:
    """Values that may be shown: their name does not say that they are secret."""
    return {str(value) for key, value in values.items() if not is_secret(str(key), str(value))}
