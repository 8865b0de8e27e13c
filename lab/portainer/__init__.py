"""The lab's stand-in for Portainer and the Docker engine behind it: its "containers" are child processes of this machine.

Run it with `python -m lab.portainer --lab FOLDER --fd N`. It serves Portainer's API with the quirks of the real one over TLS
with a self-signed certificate, and below /_lab/ what belongs to the lab alone: faults, the log of requests, start and stop.

* `compose` reads stack files, `swarm` brings services and tasks to what is wanted, `processes` starts what a container is.
* `docker_api`, `docker_shapes` and `docker_exec` are the engine's API, `api`, `stacks_api` and `access` are Portainer's.
* `engine_proxy` leads to a real engine's socket instead (`--engine unix:///path`).
* `store` keeps stacks, users, keys and ports in the lab's folder; `faults` makes things go wrong.
"""
