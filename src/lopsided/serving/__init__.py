"""Adapters for servers: what each server takes, exports to it, and whether an adapter takes effect there."""

from lopsided.serving.exporting import Exported, export_adapter
from lopsided.serving.probing import probe_folder, probe_server
from lopsided.serving.servers import SERVERS, Server
from lopsided.serving.verdict import ProbeVerdict

__all__ = ["SERVERS", "Exported", "ProbeVerdict", "Server", "export_adapter", "probe_folder", "probe_server"]
