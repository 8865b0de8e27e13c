"""HTTP to Portainer, container engines and Archon: bounded, without redirects or cookies, and in check mode by an allow-list."""
