# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The options by which a module reaches PROD's running Archon (SERVICES_OPTIONS in archon_align.ansible_edge)."""


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  backend:
    description:
      - By what PROD's services are reached. Empty takes C(portainer) when O(portainer_url) is given, else C(engine) when
        O(engine_url) is, else C(none), which restarts nothing and says what to restart by hand.
    type: str
    choices: ["", portainer, engine, none]
    default: ""
  stack:
    description: PROD's stack, or the compose project's name with O(backend=engine).
    type: str
    default: archon-prod
  portainer_url:
    description: Portainer's address, like C(https://portainer.example:9443).
    type: str
    default: ""
  portainer_api_key:
    description: An API key (access token) of Portainer. Never shown.
    type: str
    default: ""
  portainer_username:
    description: A user of Portainer, used when there is no API key.
    type: str
    default: ""
  portainer_password:
    description: The user's password. Never shown.
    type: str
    default: ""
  portainer_ca_file:
    description: A file of PEM certificates that Portainer's certificate is checked by.
    type: str
    default: ""
  portainer_fingerprint:
    description: SHA-256 fingerprint of Portainer's own certificate, instead of a CA.
    type: str
    default: ""
  portainer_insecure:
    description: Trust any certificate. Whoever is between can read the API key.
    type: bool
    default: false
  portainer_environment:
    description: The environment of Portainer that the stack is in. Needed where several have a stack of that name.
    type: str
    default: ""
  engine_url:
    description: The engine of Docker or Podman itself, as C(unix:///path) or C(http(s)://host:port).
    type: str
    default: ""
  prod_url:
    description: PROD's archon-server, like C(http://archon.example:8181), with a path prefix if it has one. Empty if unknown.
    type: str
    default: ""
  application_ca_file:
    description: A file of PEM certificates that the certificate of O(prod_url) is checked by.
    type: str
    default: ""
"""
