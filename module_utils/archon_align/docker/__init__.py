"""The Docker Engine API, over Portainer's proxy or at the engine itself; Podman's compatible API as far as it goes."""
