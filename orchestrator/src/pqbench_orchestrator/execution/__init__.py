"""Executing a plan: its services, its steps, and the environment record."""
