"""Doing the plan: services, steps, the environment record."""
