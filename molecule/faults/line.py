"""Make the lines of both databases and of the embedding service bad, or good again: line.py bad|good. Called by converge.yml.

Where the kernel has netem: 20 ms of latency and 1 % of packets lost. Where not: 1 % lost by iptables, and a slow line by tbf, behind
whose queue packets wait.
"""

from __future__ import annotations

import sys

from runs import Wrong, inside, run_driver

HOSTS = ("dev-db", "prod-db", "embedding")
_LINK = ("tc", "qdisc", "replace", "dev", "eth0", "root")
_LOSS = ("INPUT", "--in-interface=eth0", "--match=statistic", "--mode=random", "--probability=0.01", "--jump=DROP")


def bad() -> str:
    """Loss and latency at each host. Raises Wrong when the kernel has neither means."""
    try:
        for host in HOSTS:
            inside(host, *_LINK, "netem", "delay", "20ms", "loss", "1%")
    except Wrong:
        for host in HOSTS:
            inside(host, "iptables", "--append", *_LOSS)
            inside(host, *_LINK, "tbf", "rate", "20mbit", "burst", "32kb", "latency", "200ms")
        return "1 % loss by iptables and 20 Mbit/s by tbf: this kernel has no netem"
    return "1 % loss and 20 ms of latency by netem"


def good() -> str:
    """As if nothing had been done."""
    for host in HOSTS:
        inside(host, "tc", "qdisc", "delete", "dev", "eth0", "root", check=False)
        inside(host, "iptables", "--flush")
    return "as before"


if __name__ == "__main__":
    ways = {"bad": bad, "good": good}
    sys.exit(run_driver(lambda name: ways[name](), ways))
