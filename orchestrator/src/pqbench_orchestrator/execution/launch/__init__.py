"""Launchers: ways of starting a service, one per file; each implements `execution.services.Launcher`."""
