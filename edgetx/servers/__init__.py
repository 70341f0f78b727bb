"""Packages for servers that already exist: a model repository of Triton Inference Server."""

from edgetx.servers.config import Instances, parse_instances, parse_versions
from edgetx.servers.triton import Entry, to_triton

__all__ = ["Entry", "Instances", "parse_instances", "parse_versions", "to_triton"]
