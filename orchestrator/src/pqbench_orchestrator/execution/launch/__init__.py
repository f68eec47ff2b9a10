"""Launchers: how a service comes to run, one way a file; each meets `execution.services.Launcher`."""
