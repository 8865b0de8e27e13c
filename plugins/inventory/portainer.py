# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The inventory plugin portainer: containers behind Portainer as hosts."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError, AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin, Cacheable, Constructable

DOCUMENTATION = r"""
name: portainer
short_description: Containers of a Portainer as hosts
description:
  - Asks Portainer for its environments (Docker and Swarm) and makes every container of theirs a host.
  - All hosts are in the group C(portainer), below it in one group for each environment, C(portainer_<environment>), each stack,
    C(portainer_<environment>_<stack>), and each service, C(portainer_<environment>_<stack>_<service>); besides in
    C(container_state_<state>), and in C(archon_prod_containers) or C(archon_dev_containers).
  - The name of a host is the container's, without the task id that Swarm gives it anew with every restart. Where several have
    that name, the environment's name or the beginning of the container's id follows.
  - Host variables are C(container_id), C(container_name), C(container_image), C(container_state), C(container_health),
    C(container_node), C(container_ports) (a list of C(published), C(target), C(protocol), with what Swarm publishes for the
    container's service; C(published) is 0 for a port that is not), C(container_labels),
    C(portainer_environment), C(portainer_stack) and C(portainer_service). The environment variables of containers are not among
    them, because they hold secrets.
  - It only reads. The playbooks of archon-align leave the group C(portainer) alone.
extends_documentation_fragment:
  - constructed
  - inventory_cache
options:
  plugin:
    description: Must be C(portainer).
    required: true
    choices: [portainer]
  url:
    description: Portainer's address, for instance C(https://portainer.example:9443).
    type: str
    required: true
    env:
      - name: ARCHON_PORTAINER_URL
  api_key:
    description: An API key of Portainer's. It goes before O(username) and O(password).
    type: str
    env:
      - name: ARCHON_PORTAINER_API_KEY
  api_key_file:
    description: A file that holds the API key; a relative path begins at this file's folder.
    type: str
    env:
      - name: ARCHON_PORTAINER_API_KEY_FILE
  username:
    description: The user to log in as, where there is no API key.
    type: str
    env:
      - name: ARCHON_PORTAINER_USERNAME
  password:
    description: The user's password.
    type: str
    env:
      - name: ARCHON_PORTAINER_PASSWORD
  ca_file:
    description: A file of certificates (PEM) that sign Portainer's, or its own self-signed one.
    type: str
    env:
      - name: ARCHON_PORTAINER_CA_FILE
  fingerprint:
    description: SHA-256 of Portainer's certificate; no other is accepted then.
    type: str
    env:
      - name: ARCHON_PORTAINER_FINGERPRINT
  insecure:
    description: Accept any certificate. Whoever is in between can read the API key.
    type: bool
    default: false
  timeout:
    description: Seconds to wait for an answer.
    type: float
    default: 10.0
  required:
    description: Whether a Portainer that cannot be asked is an error. If not, it is a warning and there are no hosts.
    type: bool
    default: true
  environments:
    description: Names of the environments to ask; all, when empty.
    type: list
    elements: str
    default: []
  stacks:
    description: Names of the stacks whose containers are wanted; all, when empty.
    type: list
    elements: str
    default: []
  states:
    description: States of containers that are wanted, like C(running) and C(exited); all, when empty.
    type: list
    elements: str
    default: [running]
  labels:
    description: Labels that a container must have, with these values.
    type: dict
    default: {}
  prod_stack:
    description: The stack whose containers are in the group C(archon_prod_containers).
    type: str
    default: archon-prod
  dev_stack:
    description: The stack whose containers are in the group C(archon_dev_containers).
    type: str
    default: archon-dev
  prod_label:
    description: A label, as C(key=value), whose containers are in C(archon_prod_containers), too.
    type: str
    default: ""
  dev_label:
    description: A label, as C(key=value), whose containers are in C(archon_dev_containers), too.
    type: str
    default: ""
author:
  - archon-align maintainers
"""

EXAMPLES = r"""
# portainer.yml, seen with: ansible-inventory -i portainer.yml --graph
plugin: portainer
url: https://portainer.example:9443
api_key: "{{ lookup('ansible.builtin.env', 'PORTAINER_API_KEY') }}"
fingerprint: 9F:86:D0:81:88:4C:7D:65:9A:2F:EA:A0:C5:5A:D0:15:A3:BF:4F:1B:2B:0B:82:2C:D1:5D:6C:15:B0:F0:0A:08

---
# Only two stacks, also what has ended, with connections into the containers and a group for each image.
plugin: portainer
url: http://127.0.0.1:9000
api_key_file: ~/.config/portainer-key
stacks: [archon-prod, archon-dev]
states: []
compose:
  ansible_connection: "'community.docker.docker_api'"
  ansible_host: container_id
keyed_groups:
  - key: container_image
    prefix: image
"""

CORE = Path(__file__).resolve().parents[2] / "module_utils"
_SECRET_OR_PLACE = (
    "url", "api_key", "api_key_file", "username", "password", "ca_file", "fingerprint", "prod_stack", "dev_stack",
)  # fmt: skip


class InventoryModule(BaseInventoryPlugin, Constructable, Cacheable):  # type: ignore[misc]  # ansible-core has no type information
    """See DOCUMENTATION."""

    NAME = "portainer"

    def verify_file(self, path: str) -> bool:
        """Any YAML file; that it names this plugin is looked at when it is read."""
        return bool(super().verify_file(path)) and path.endswith((".yml", ".yaml"))

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        self._folder = Path(path).resolve().parent
        self.load_cache_plugin()
        key = self.get_cache_key(path)
        use = cache and self.get_option("cache")
        hosts = None
        if use:
            try:
                hosts = self._cache[key]
            except KeyError:
                hosts = None
        if hosts is None:
            hosts = self._ask()
            if hosts is not None and self.get_option("cache"):
                self._cache[key] = hosts
        self._populate(hosts or [])

    def _option(self, name: str) -> Any:
        value = self.get_option(name)
        return self.templar.template(value) if name in _SECRET_OR_PLACE and isinstance(value, str) else value

    def _ask(self) -> list[dict[str, Any]] | None:
        """The hosts, or None when Portainer cannot be asked and need not be."""
        if str(CORE) not in sys.path:
            sys.path.insert(0, str(CORE))
        try:
            client = importlib.import_module("archon_align.portainer.client")
            discovery = importlib.import_module("archon_align.portainer.discovery")
            trust = importlib.import_module("archon_align.web.trust")
            errors = importlib.import_module("archon_align.errors")
        except ImportError as error:
            raise AnsibleError(f"The inventory plugin portainer needs the Python package {error.name}.") from error
        try:
            access = client.Access(
                url=self._option("url") or "",
                api_key=self._api_key(errors),
                username=self._option("username") or "",
                password=self._option("password") or "",
                trust=trust.Trust(
                    ca_file=self._file("ca_file"),
                    fingerprint=self._option("fingerprint") or "",
                    insecure=self._option("insecure"),
                ),
                timeout=self._option("timeout"),
            )
            wanted = discovery.Wanted(
                environments=tuple(self._option("environments")),
                stacks=tuple(self._option("stacks")),
                states=tuple(self._option("states")),
                labels={str(key): str(value) for key, value in self._option("labels").items()},
            )
            with client.Portainer(access, check=True) as portainer:
                found = discovery.discover(portainer, wanted)
        except errors.AlignError as error:
            if self._option("required"):
                raise AnsibleParserError(str(error)) from None
            self.display.warning(
                f"No containers of Portainer are in the inventory. {error.what} Found: {error.found}. {error.remedy}"
            )
            return None
        for warning in found.warnings:
            self.display.warning(warning)
        return list(found.hosts)

    def _file(self, name: str) -> str:
        """A path; a relative one begins at the folder of the inventory file."""
        given = self._option(name)
        return str(self._folder / Path(os.path.expandvars(given)).expanduser()) if given else ""

    def _api_key(self, errors: Any) -> str:
        given, file = self._option("api_key"), self._file("api_key_file")
        if given or not file:
            return str(given or "")
        try:
            return Path(file).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise errors.AlignError(
                "Portainer's API key cannot be read.",
                object_name=file,
                expected="a readable file that holds the key",
                found=f"{file}: {getattr(error, 'strerror', '') or type(error).__name__}",
                remedy="Correct api_key_file, or give api_key.",
                code="no_credentials",
            ) from None

    def _populate(self, hosts: list[dict[str, Any]]) -> None:
        strict = self.get_option("strict")
        self.inventory.add_group("portainer")
        for side in ("prod", "dev"):
            self.inventory.add_group(f"archon_{side}_containers")
        for host in hosts:
            variables = {key: value for key, value in host.items() if key != "name"}
            name = host["name"]
            if self.inventory.get_host(name) is not None:
                # A host of another source must not become one of these, which the playbooks leave alone.
                name = f"{name}.{variables['portainer_environment']}.{variables['container_id'][:12]}"
            self.inventory.add_host(name, group=self._groups_of(variables))
            for key, value in variables.items():
                self.inventory.set_variable(name, key, value)
            self._add_flat_groups(name, variables)
            everything = self.inventory.get_host(name).get_vars()
            self._set_composite_vars(self.get_option("compose"), everything, name, strict=strict)
            self._add_host_to_composed_groups(self.get_option("groups"), everything, name, strict=strict)
            self._add_host_to_keyed_groups(self.get_option("keyed_groups"), everything, name, strict=strict)

    def _groups_of(self, variables: dict[str, Any]) -> str:
        """The innermost of the nested groups, all of them made."""
        parent = "portainer"
        path = [variables["portainer_environment"], variables["portainer_stack"]]
        service = variables["portainer_service"].removeprefix(f"{variables['portainer_stack']}_")
        for part in (*path, service):
            if part:
                group = self.inventory.add_group(self._sanitize_group_name(f"{parent}_{part}"))
                self.inventory.add_child(parent, group)
                parent = group
        return parent

    def _add_flat_groups(self, name: str, variables: dict[str, Any]) -> None:
        state = self.inventory.add_group(self._sanitize_group_name(f"container_state_{variables['container_state']}"))
        self.inventory.add_child(state, name)
        for side in ("prod", "dev"):
            key, _, value = self.get_option(f"{side}_label").partition("=")
            labelled = bool(key) and variables["container_labels"].get(key) == value
            if labelled or variables["portainer_stack"] == self._option(f"{side}_stack"):
                self.inventory.add_child(f"archon_{side}_containers", name)
